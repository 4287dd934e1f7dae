// The gradient norm: sums of squares of fixed-size chunks of the flat parameter space, then a tree over chunks.
//
// order: a chunk is a row reduction of fma(x, x, partial); the chunks are a pairwise tree (numerics/order.h).
#include <stdlib.h>

#include "kernels.h"
#include "parallel.h"
#include "row_sums.h"

namespace samebits {
namespace SAMEBITS_ISA {

void norm_partials(float* partials, const float* x, int64_t n, int64_t chunk) {
  parallel_for((n + chunk - 1) / chunk, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      const float* first = x + c * chunk;
      const int64_t size = n - c * chunk < chunk ? n - c * chunk : chunk;
      partials[c] = row_sum(size, [=](float p, int64_t i) { return fma_(first[i], first[i], p); });
    }
  });
}

// The tree over x[0..n): its left part is the largest power of two below n, which is what level-by-level
// pairing with an odd last element moving up amounts to.
static float tree(const float* x, int64_t n) {
  if (n == 1) return x[0];
  int64_t left = 1;
  while (2 * left < n) left *= 2;
  return add(tree(x, left), tree(x + left, n - left));
}

void tree_sum(float* out, const float* x, int64_t n) {
  FloatEnvironment environment;
  *out = n > 0 ? tree(x, n) : 0.0f;
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
