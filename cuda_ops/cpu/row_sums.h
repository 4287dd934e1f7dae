// Row reductions: 32 strided partials in index order, then the fold (numerics/order.h). `term(i)` gives the
// partial's next value from its last one, so a chain may be of additions or of fused multiply-adds.
#pragma once

#include <stdint.h>

#include "../numerics/order.h"

namespace samebits {
namespace SAMEBITS_ISA {

// step(partial, i) -> partial, for i in 0..n-1
template <class Step>
static inline __attribute__((always_inline)) float row_sum(int64_t n, Step step) {
  alignas(64) float p[kPartials];
  for (int j = 0; j < kPartials; j++) p[j] = 0.0f;
  int64_t i = 0;
  for (; i + kPartials <= n; i += kPartials) {
    for (int j = 0; j < kPartials; j++) p[j] = step(p[j], i + j);
  }
  for (int j = 0; i + j < n; j++) p[j] = step(p[j], i + j);
  return fold_partials(p);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
