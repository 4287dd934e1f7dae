// Sums over a few numbers: the losses of a lane, then those of all lanes and the chunks of the norm.
//
// chain_sum: one block, whose threads fetch tiles of 2048 and whose thread 0 adds. tree_sum: block k folds the aligned
// 2048 values from 2048 k, which is a subtree, into one; the results are folded again until one is left. Any n.
//
// order: chain_sum is one chain, tree_sum a pairwise tree (numerics/order.h).
#include "launch.h"

namespace samebits {
namespace device {

constexpr int kChainThreads = 256, kChainTile = 2048;
constexpr int kTreeThreads = 1024, kTreeBlock = 2 * kTreeThreads;

// ---------------------------------------------------------------- kernels

__global__ void __launch_bounds__(kChainThreads) chain_sum_kernel(float* total, const float* losses, int64_t n) {
  __shared__ float tile[kChainTile];
  float sum = *total;
  for (int64_t first = 0; first < n; first += kChainTile) {
    const int count = (int)(n - first < kChainTile ? n - first : kChainTile);
#pragma unroll
    for (int i = threadIdx.x; i < kChainTile; i += kChainThreads) {
      if (i < count) tile[i] = losses[first + i];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 16
      for (int i = 0; i < count; i++) sum = add(sum, tile[i]);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = sum;
}

__global__ void __launch_bounds__(kTreeThreads) tree_sum_kernel(float* out, const float* x, int64_t n) {
  __shared__ float level[kTreeBlock];
  const int64_t first = (int64_t)blockIdx.x * kTreeBlock;
  int count = (int)(n - first < kTreeBlock ? n - first : kTreeBlock);
  for (int i = threadIdx.x; i < count; i += kTreeThreads) level[i] = x[first + i];
  __syncthreads();
  while (count > 1) {
    const int left = 2 * (int)threadIdx.x, right = left + 1;
    float value = 0.0f;
    if (left < count) value = right < count ? add(level[left], level[right]) : level[left];
    __syncthreads();
    if (left < count) level[threadIdx.x] = value;
    __syncthreads();
    count = (count + 1) / 2;
  }
  if (threadIdx.x == 0) out[blockIdx.x] = n > 0 ? level[0] : 0.0f;
}

// ---------------------------------------------------------------- launchers

void chain_sum(Stream stream, float* total, const float* losses, int64_t n) {
  if (n <= 0) return;
  SAMEBITS_LAUNCH(chain_sum_kernel, dim3(1), dim3(kChainThreads), 0, stream, total, losses, n);
}

void tree_sum(Stream stream, float* out, const float* x, int64_t n) {
  const int64_t blocks = (n + kTreeBlock - 1) / kTreeBlock;
  const int64_t upper = (blocks + kTreeBlock - 1) / kTreeBlock;
  const Scratch scratch(stream, blocks > 1 ? (size_t)(blocks + upper) * sizeof(float) : 0);
  float *next = scratch.as<float>(), *after = next + blocks;
  while (n > kTreeBlock) {
    const int64_t results = (n + kTreeBlock - 1) / kTreeBlock;
    SAMEBITS_LAUNCH(tree_sum_kernel, dim3(grid_of(results)), dim3(kTreeThreads), 0, stream, next, x, n);
    x = next;
    n = results;
    float* const swap = next;
    next = after;
    after = swap;
  }
  SAMEBITS_LAUNCH(tree_sum_kernel, dim3(1), dim3(kTreeThreads), 0, stream, out, x, n);
}

}  // namespace device
}  // namespace samebits
