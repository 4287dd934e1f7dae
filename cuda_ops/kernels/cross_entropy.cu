// Softmax cross-entropy, fused with its own gradient.
//
// Block n has row n: warp 0 adds, 8 warps compute. Maximum: all threads, any order. Sum: the 8 warps put the
// exponentials of a tile of 2048 columns into shared memory while warp 0, its lanes the 32 partials, adds the tile
// before it. Gradient: the exponentials once more rather than stored and read. 128-bit accesses where Vp % 4 == 0 and
// logits is 16-byte aligned; any V <= Vp.
//
// order: the sum of exponentials is a row reduction over the V real columns (fold_partials).
#include "../numerics/exp_log.h"
#include "rows.h"

namespace samebits {
namespace device {

constexpr int kComputeThreads = 256, kLossThreads = 32 + kComputeThreads, kLossTile = 8 * kComputeThreads;

// ---------------------------------------------------------------- kernels

// The largest of what every thread of the block gives.
__device__ __forceinline__ float block_max(float m) {
  __shared__ float warps[kLossThreads / 32];
  for (int width = 16; width > 0; width /= 2) m = max_(m, __shfl_xor_sync(~0u, m, width));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = m;
  __syncthreads();
  m = warps[0];
#pragma unroll
  for (int w = 1; w < kLossThreads / 32; w++) m = max_(m, warps[w]);
  return m;
}

template <int kWidth, bool kFused>
__global__ void __launch_bounds__(kLossThreads)
    cross_entropy_kernel(float* losses, float* logits, const int32_t* targets, float dloss, int V, int Vp) {
  __shared__ __align__(16) float tiles[2][kLossTile];
  __shared__ float shared_sum;
  float* const x = logits + (int64_t)blockIdx.x * Vp;

  float m = x[0];
#pragma unroll 4
  for (int i = (int)threadIdx.x * kWidth; i < V; i += kLossThreads * kWidth) {
    const Pack<kWidth> v = load<kWidth>(x + i);
#pragma unroll
    for (int e = 0; e < kWidth; e++) m = i + e < V ? max_(m, v.x[e]) : m;
  }
  m = block_max(m);

  const int steps = (V + kLossTile - 1) / kLossTile;
  Pack<1> p = no_partials<1>();
  for (int step = 0; step <= steps; step++) {
    if (threadIdx.x >= 32) {
      if (step < steps) {
        constexpr int kShare = kLossTile / (kComputeThreads * kWidth);
        const int own = ((int)threadIdx.x - 32) * kWidth, first = step * kLossTile + own;
        float* const tile = tiles[step % 2] + own;
        Pack<kWidth> v[kShare];  // all loads of a step before the first exponential
#pragma unroll
        for (int k = 0; k < kShare; k++) {
          const int at = k * kComputeThreads * kWidth;
          if (first + at < V) v[k] = load<kWidth>(x + first + at);
        }
#pragma unroll
        for (int k = 0; k < kShare; k++) {
          const int at = k * kComputeThreads * kWidth;
          if (first + at < V) {
#pragma unroll
            for (int e = 0; e < kWidth; e++) v[k].x[e] = exp_(sub(v[k].x[e], m));
            store<kWidth>(tile + at, v[k]);
          }
        }
      }
    } else if (step > 0) {
      const float* const tile = tiles[(step - 1) % 2];
      const int left = V - (step - 1) * kLossTile, count = left < kLossTile ? left : kLossTile;
#pragma unroll 16
      for (int i = threadIdx.x; i < count; i += kPartials) p.x[0] = add(p.x[0], tile[i]);
    }
    __syncthreads();
  }
  if (threadIdx.x < 32) {
    const float sum = fold_lanes<1>(p);
    if (threadIdx.x == 0) {
      losses[blockIdx.x] = sub(log_(sum), sub(x[targets[blockIdx.x]], m));
      shared_sum = sum;
    }
  }
  if (!kFused) return;
  __syncthreads();

  const float inverse = div(1.0f, shared_sum);
  const int target = targets[blockIdx.x];
#pragma unroll 2
  for (int i = (int)threadIdx.x * kWidth; i < Vp; i += kLossThreads * kWidth) {
    Pack<kWidth> v = load<kWidth>(x + i);
#pragma unroll
    for (int e = 0; e < kWidth; e++) {
      const float probability = mul(exp_(sub(v.x[e], m)), inverse);
      const float gradient = mul(i + e == target ? sub(probability, 1.0f) : probability, dloss);
      v.x[e] = i + e < V ? gradient : 0.0f;
    }
    store<kWidth>(x + i, v);
  }
}

// ---------------------------------------------------------------- launchers

template <bool kFused>
static void cross_entropy(Stream stream, float* losses, float* logits, const int32_t* targets, float dloss, int64_t N,
                          int64_t V, int64_t Vp) {
  if (N <= 0) return;
  const dim3 grid(grid_of(N)), block(kLossThreads);
  if (Vp % 4 == 0 && aligned(logits)) {
    SAMEBITS_LAUNCH((cross_entropy_kernel<4, kFused>), grid, block, 0, stream, losses, logits, targets, dloss, (int)V,
                    (int)Vp);
  } else {
    SAMEBITS_LAUNCH((cross_entropy_kernel<1, kFused>), grid, block, 0, stream, losses, logits, targets, dloss, (int)V,
                    (int)Vp);
  }
}

void cross_entropy_forward(Stream stream, float* losses, const float* logits, const int32_t* targets, int64_t N,
                           int64_t V, int64_t Vp) {
  cross_entropy<false>(stream, losses, const_cast<float*>(logits), targets, 0.0f, N, V,
                       Vp);  // which writes losses only
}

void cross_entropy_fused(Stream stream, float* losses, float* logits, const int32_t* targets, float dloss, int64_t N,
                         int64_t V, int64_t Vp) {
  cross_entropy<true>(stream, losses, logits, targets, dloss, N, V, Vp);
}

}  // namespace device
}  // namespace samebits
