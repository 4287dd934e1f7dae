// An integer sum over the bits of a tensor: no rounding, so any order is the same.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/fingerprint.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kPiece = 1 << 14;

void fingerprint(uint64_t* out, const uint32_t* x, int64_t n, int64_t offset) {
  uint64_t total = 0;
  parallel_for((n + kPiece - 1) / kPiece, 2 * kPiece, [=, &total](int64_t begin, int64_t end) {
    const int64_t last = end * kPiece < n ? end * kPiece : n;
    uint64_t sum = 0;
    for (int64_t i = begin * kPiece; i < last; i++) sum += fingerprint_mix(x[i], (uint64_t)(offset + i));
    __atomic_fetch_add(&total, sum, __ATOMIC_RELAXED);
  });
  *out = total;
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
