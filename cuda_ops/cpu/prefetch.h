// Lines of memory asked for before they are needed. A hint: it cannot change a bit.
#pragma once

#include <stdint.h>

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kLine = 16;  // values of a cache line

// Rows [rows][columns], stride apart. What is to be written is asked for so: a store to a line that is not near holds
// up those behind it.
template <bool kWrite>
static inline void prefetch(const float* x, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r++, x += stride) {
    for (int64_t c = 0; c < columns; c += kLine) __builtin_prefetch(x + c, kWrite);
    __builtin_prefetch(x + columns - 1, kWrite);  // a row may begin within a line
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
