// The first NaN or Inf of a tensor: a minimum of places, so any order is the same.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/float.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kPiece = 1 << 14;

void first_nonfinite(int64_t* out, const float* x, int64_t n) {
  int64_t first = n;
  parallel_for((n + kPiece - 1) / kPiece, kPiece, [=, &first](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; piece++) {
      const int64_t last = (piece + 1) * kPiece < n ? (piece + 1) * kPiece : n;
      uint32_t largest = 0;
      for (int64_t i = piece * kPiece; i < last; i++) {
        const uint32_t magnitude = to_bits(x[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
      }
      if (largest < 0x7f800000u) continue;
      int64_t i = piece * kPiece;
      while ((to_bits(x[i]) & 0x7f800000u) != 0x7f800000u) i++;
      int64_t seen = __atomic_load_n(&first, __ATOMIC_RELAXED);
      while (i < seen && !__atomic_compare_exchange_n(&first, &seen, i, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      }
      return;
    }
  });
  *out = first < n ? first : -1;
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
