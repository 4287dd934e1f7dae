// Lines of memory asked for before they are needed. A hint: it cannot change a bit.
#pragma once

#include <stdint.h>

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kLine = 16;  // values of a cache line

// Rows [rows][columns], stride apart, that are read soon.
static inline void prefetch_rows(const float* x, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns; c += kLine) __builtin_prefetch(x + r * stride + c);
  }
}

// A tile of outputs that is written after its sums: a store to a line that is not near holds up those behind it.
static inline void prefetch_outputs(float* out, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns; c += kLine) __builtin_prefetch(out + r * stride + c, 1);
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
