// The first NaN or Inf of a tensor. Indices: words.h.
//
// order: free, a minimum of places.
#include "words.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

// out starts as 2^64 - 1, which is -1: none.
__global__ void __launch_bounds__(kWordThreads) first_nonfinite_kernel(Word64* out, const float* x, int64_t n) {
  const int64_t first = (int64_t)blockIdx.x * kWordsPerBlock;
  const int64_t last = first + kWordsPerBlock < n ? first + kWordsPerBlock : n;
  Word64 found = ~0ull;
#pragma unroll 8
  for (int64_t i = first + threadIdx.x; i < last; i += kWordThreads) {
    const bool finite = (to_bits(x[i]) & 0x7f800000u) != 0x7f800000u;
    found = finite || (Word64)i > found ? found : (Word64)i;
  }
  if (found != ~0ull) atomicMin(out, found);
}

// ---------------------------------------------------------------- launchers

void first_nonfinite(Stream stream, int64_t* out, const float* x, int64_t n) {
  Word64* const word = reinterpret_cast<Word64*>(out);
  SAMEBITS_LAUNCH(set_word_kernel, dim3(1), dim3(1), 0, stream, word, ~(Word64)0);
  if (n <= 0) return;
  SAMEBITS_LAUNCH(first_nonfinite_kernel, dim3(blocks_for(n, kWordsPerBlock)), dim3(kWordThreads), 0, stream, word, x,
                  n);
}

}  // namespace device
}  // namespace samebits
