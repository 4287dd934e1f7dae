// An integer sum over the bits of a tensor. Indices: words.h.
//
// order: free, a sum mod 2^64 (fingerprint_mix).
#include "../numerics/fingerprint.h"
#include "words.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

__global__ void __launch_bounds__(kWordThreads)
    fingerprint_kernel(Word64* out, const uint32_t* x, int64_t n, int64_t offset) {
  __shared__ Word64 sums[kWordThreads / 32];
  const int64_t first = (int64_t)blockIdx.x * kWordsPerBlock;
  const int64_t last = first + kWordsPerBlock < n ? first + kWordsPerBlock : n;
  Word64 sum = 0;
#pragma unroll 8
  for (int64_t i = first + threadIdx.x; i < last; i += kWordThreads)
    sum += fingerprint_mix(x[i], (uint64_t)(offset + i));
  for (int width = 16; width > 0; width /= 2) sum += __shfl_xor_sync(~0u, sum, width);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int warp = 1; warp < kWordThreads / 32; warp++) sum += sums[warp];
  atomicAdd(out, sum);
}

// ---------------------------------------------------------------- launchers

void fingerprint(Stream stream, uint64_t* out, const uint32_t* x, int64_t n, int64_t offset) {
  Word64* const word = reinterpret_cast<Word64*>(out);
  SAMEBITS_LAUNCH(set_word_kernel, dim3(1), dim3(1), 0, stream, word, (Word64)0);
  if (n <= 0) return;
  SAMEBITS_LAUNCH(fingerprint_kernel, dim3(blocks_for(n, kWordsPerBlock)), dim3(kWordThreads), 0, stream, word, x, n,
                  offset);
}

}  // namespace device
}  // namespace samebits
