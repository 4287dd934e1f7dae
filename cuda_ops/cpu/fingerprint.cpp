// Integer sums and searches over the bits of a tensor: no rounding, so any order is the same.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/fingerprint.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kPiece = 1 << 14;

void fingerprint(uint64_t* out, const uint32_t* x, int64_t n, int64_t offset) {
  uint64_t total = 0;
  parallel_for((n + kPiece - 1) / kPiece, [=, &total](int64_t begin, int64_t end) {
    const int64_t last = end * kPiece < n ? end * kPiece : n;
    uint64_t sum = 0;
    for (int64_t i = begin * kPiece; i < last; i++) sum += fingerprint_mix(x[i], (uint64_t)(offset + i));
    __atomic_fetch_add(&total, sum, __ATOMIC_RELAXED);
  });
  *out = total;
}

void first_nonfinite(int64_t* out, const float* x, int64_t n) {
  int64_t first = n;
  parallel_for((n + kPiece - 1) / kPiece, [=, &first](int64_t begin, int64_t end) {
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
