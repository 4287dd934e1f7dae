// Random tensors as pure functions of (seed, stream, offset). Thread t of the grid makes Philox block offset / 4 + t,
// which is up to four elements; they leave in one 128-bit store if the block lies wholly inside out and its address is
// aligned. Any n, any offset.
//
// order: no sum; philox_block(), normal_from_words() and uniform_from_word() of numerics/philox.h.
#include "../numerics/philox.h"
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kFillThreads = 256;

// ---------------------------------------------------------------- kernels

struct Normal {
  float mean, std;

  __device__ __forceinline__ Pack<4> operator()(const PhiloxBlock& block) const {
    Pack<4> v;
    normal_from_words(block.word[0], block.word[1], &v.x[0], &v.x[1]);
    normal_from_words(block.word[2], block.word[3], &v.x[2], &v.x[3]);
#pragma unroll
    for (int e = 0; e < 4; e++) v.x[e] = fma_(std, v.x[e], mean);
    return v;
  }
};

struct Uniform {
  __device__ __forceinline__ Pack<4> operator()(const PhiloxBlock& block) const {
    Pack<4> v;
#pragma unroll
    for (int e = 0; e < 4; e++) v.x[e] = uniform_from_word(block.word[e]);
    return v;
  }
};

template <class Distribution>
__global__ void __launch_bounds__(kFillThreads)
    fill_kernel(float* out, int64_t n, uint64_t seed, uint32_t stream, uint64_t offset, Distribution distribution) {
  const uint64_t block = offset / 4 + (uint64_t)blockIdx.x * kFillThreads + threadIdx.x;
  const int64_t i = (int64_t)(block * 4 - offset);  // of the block's first element, negative before out
  if (i >= n) return;
  const Pack<4> v = distribution(philox_block(seed, stream, block));
  if (i >= 0 && i + 4 <= n && (reinterpret_cast<uintptr_t>(out + i) & 15) == 0) {
    store<4>(out + i, v);
    return;
  }
#pragma unroll
  for (int e = 0; e < 4; e++) {
    if (i + e >= 0 && i + e < n) out[i + e] = v.x[e];
  }
}

// ---------------------------------------------------------------- launchers

template <class Distribution>
static void fill(Stream cuda_stream, float* out, int64_t n, uint64_t seed, uint32_t stream, uint64_t offset,
                 Distribution distribution) {
  if (n <= 0) return;
  const int64_t blocks = (int64_t)((offset + (uint64_t)n + 3) / 4 - offset / 4);
  SAMEBITS_LAUNCH(fill_kernel<Distribution>, dim3(blocks_for(blocks, kFillThreads)), dim3(kFillThreads), 0, cuda_stream,
                  out, n, seed, stream, offset, distribution);
}

void fill_normal(Stream cuda_stream, float* out, int64_t n, uint64_t seed, uint32_t stream, uint64_t offset, float mean,
                 float std) {
  fill(cuda_stream, out, n, seed, stream, offset, Normal{mean, std});
}

void fill_uniform(Stream cuda_stream, float* out, int64_t n, uint64_t seed, uint32_t stream, uint64_t offset) {
  fill(cuda_stream, out, n, seed, stream, offset, Uniform());
}

}  // namespace device
}  // namespace samebits
