// The gradient norm: sums of squares of fixed-size chunks of the flat parameter space, then a tree over chunks.
//
// norm_partials: a chunk is a row of rows.h, with 128-bit loads where chunk % 4 == 0 and x is 16-byte aligned.
// tree_sum: block k folds the aligned 2048 values from 2048 k, which is a subtree, into one; the results are folded
// again until one is left.
//
// order: a chunk is a row reduction of fma(x, x, partial) (fold_partials); the chunks are a pairwise tree.
#include "rows.h"

namespace samebits {
namespace device {

constexpr int kTreeThreads = 1024, kTreeBlock = 2 * kTreeThreads;

// ---------------------------------------------------------------- kernels

template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    norm_partials_kernel(float* partials, const float* x, int64_t n, int64_t chunk, int64_t chunks) {
  const OwnRow<kWidth> own;
  const int64_t begin = own.row * chunk;
  const int64_t left = own.row < chunks ? n - begin : 0;
  const int size = (int)(left < chunk ? left : chunk);
  const float* const own_x = x + begin + own.first;
  Pack<kWidth> p = no_partials<kWidth>();
  const int whole = size >= own.first + kWidth ? (size - own.first - kWidth) / kPartials + 1 : 0;
#pragma unroll 8
  for (int k = 0; k < whole; k++) {  // counted in 32 bits: the loads of eight steps are asked for at once
    const Pack<kWidth> v = load<kWidth>(own_x + k * kPartials);
#pragma unroll
    for (int e = 0; e < kWidth; e++) p.x[e] = fma_(v.x[e], v.x[e], p.x[e]);
  }
#pragma unroll
  for (int e = 0; e < kWidth; e++) {  // the end of x inside a group
    const int i = whole * kPartials + e;
    if (own.first + i < size) p.x[e] = fma_(own_x[i], own_x[i], p.x[e]);
  }
  const float sum = fold_lanes<kWidth>(p);
  if (own.row < chunks && own.first == 0) partials[own.row] = sum;
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

void norm_partials(Stream stream, float* partials, const float* x, int64_t n, int64_t chunk) {
  const int64_t chunks = (n + chunk - 1) / chunk;
  if (chunks <= 0) return;
  if (chunk > (int64_t(1) << 30)) {
    throw std::runtime_error("norm_partials: chunk = " + std::to_string(chunk) + ": allowed is up to 2^30 on a GPU");
  }
  if (chunk % 4 == 0 && aligned(x)) {
    SAMEBITS_LAUNCH(norm_partials_kernel<4>, grid_for_rows<4>(chunks), dim3(kRowThreads), 0, stream, partials, x, n,
                    chunk, chunks);
  } else {
    SAMEBITS_LAUNCH(norm_partials_kernel<1>, grid_for_rows<1>(chunks), dim3(kRowThreads), 0, stream, partials, x, n,
                    chunk, chunks);
  }
}

void tree_sum(Stream stream, float* out, const float* x, int64_t n) {
  const int64_t blocks = (n + kTreeBlock - 1) / kTreeBlock;
  const int64_t upper = (blocks + kTreeBlock - 1) / kTreeBlock;
  const Scratch scratch(stream, blocks > 1 ? (size_t)(blocks + upper) * sizeof(float) : 0);
  float *next = scratch.as<float>(), *after = next + blocks;
  while (n > kTreeBlock) {
    const int64_t results = (n + kTreeBlock - 1) / kTreeBlock;
    SAMEBITS_LAUNCH(tree_sum_kernel, dim3((unsigned)results), dim3(kTreeThreads), 0, stream, next, x, n);
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
