// Integer sums and searches over the bits of a tensor: no rounding, so atomics on integers may come in any order.
//
// Block k of 256 threads does words 8192 k to 8192 k + 8191; thread t walks words t, t + 256, ... of them. Any n.
//
// order: free, sums mod 2^64 (fingerprint_mix) and a minimum.
#include "../numerics/fingerprint.h"
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kWordThreads = 256, kWordsPerBlock = 8192;
typedef unsigned long long Word64;

// ---------------------------------------------------------------- kernels

__global__ void set_word_kernel(Word64* out, Word64 value) { *out = value; }

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

void fingerprint(Stream stream, uint64_t* out, const uint32_t* x, int64_t n, int64_t offset) {
  Word64* const word = reinterpret_cast<Word64*>(out);
  SAMEBITS_LAUNCH(set_word_kernel, dim3(1), dim3(1), 0, stream, word, (Word64)0);
  if (n <= 0) return;
  SAMEBITS_LAUNCH(fingerprint_kernel, dim3(blocks_for(n, kWordsPerBlock)), dim3(kWordThreads), 0, stream, word, x, n,
                  offset);
}

void first_nonfinite(Stream stream, int64_t* out, const float* x, int64_t n) {
  Word64* const word = reinterpret_cast<Word64*>(out);
  SAMEBITS_LAUNCH(set_word_kernel, dim3(1), dim3(1), 0, stream, word, ~(Word64)0);
  if (n <= 0) return;
  SAMEBITS_LAUNCH(first_nonfinite_kernel, dim3(blocks_for(n, kWordsPerBlock)), dim3(kWordThreads), 0, stream, word, x,
                  n);
}

}  // namespace device
}  // namespace samebits
