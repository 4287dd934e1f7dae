// Drawing a token from softmax(logits / temperature), one block of 1024 threads per row.
//
// A candidate is a 64-bit key: the value's bits, turned so that larger values sort first, above the column. Three ways:
// arg_max for temperature 0; where top_k is small, a radix select of the top_k keys, eight bits at a time, which are
// then sorted in shared memory; else the keys of the whole row are sorted in scratch[N][power of two >= V]. Sorting is
// Batcher's bitonic network. One thread adds the weights, which the block has computed a tile at a time, and keeps
// every running sum; the block looks for the first above the threshold. Any V < 2^31.
//
// order: candidates stand by (value descending, index ascending); weights exp(x - max) are one chain in that order, and
// the first whose running sum exceeds u * total is drawn. Keys are distinct: counts and minima of them come in any
// order.
#include "../numerics/exp_log.h"
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kSampleThreads = 1024, kWeightTile = 2048, kMostSelected = 2048;

// ---------------------------------------------------------------- kernels

// Ascending keys are descending values, equal ones by ascending index. -0 equals +0.
__device__ __forceinline__ uint64_t candidate_key(float value, int index) {
  const uint32_t bits = value == 0.0f ? 0u : to_bits(value);
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (uint64_t)~ascending << 32 | (uint32_t)index;
}

__device__ __forceinline__ float key_value(uint64_t key) {
  const uint32_t ascending = ~(uint32_t)(key >> 32);
  return from_bits(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending);
}

__device__ __forceinline__ void sort_keys(uint64_t* keys, int padded) {
  for (int size = 2; size <= padded; size *= 2) {
    for (int distance = size / 2; distance > 0; distance /= 2) {
      for (int pair = threadIdx.x; pair < padded / 2; pair += kSampleThreads) {
        const int i = pair / distance * 2 * distance + pair % distance, j = i + distance;
        const uint64_t a = keys[i], b = keys[j];
        if ((a > b) == ((i & size) == 0)) {
          keys[i] = b;
          keys[j] = a;
        }
      }
      __syncthreads();
    }
  }
}

// The place among count sorted keys that `uniform` draws. sums[count]: room for the running sums.
__device__ __forceinline__ int draw(const uint64_t* keys, float* sums, int count, float uniform) {
  __shared__ float weights[kWeightTile];
  __shared__ int drawn;
  const float largest = key_value(keys[0]);
  float total = 0.0f;  // of thread 0
  if (threadIdx.x == 0) drawn = count - 1;
  for (int first = 0; first < count; first += kWeightTile) {
    const int size = count - first < kWeightTile ? count - first : kWeightTile;
    for (int i = threadIdx.x; i < size; i += kSampleThreads) {
      weights[i] = exp_(sub(key_value(keys[first + i]), largest));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 0; i < size; i += 8) {
        float own[8];  // loaded before the stores, which for all the compiler knows may change them
#pragma unroll
        for (int k = 0; k < 8; k++) own[k] = weights[i + k];
#pragma unroll
        for (int k = 0; k < 8; k++) {
          if (i + k < size) sums[first + i + k] = total = add(total, own[k]);
        }
      }
    }
    __syncthreads();
  }
  const float threshold = mul(uniform, sums[count - 1]);
  for (int i = threadIdx.x; i < count; i += kSampleThreads) {
    if (!(sums[i] > threshold)) continue;
    atomicMin(&drawn, i);
    break;
  }
  __syncthreads();
  return drawn;
}

// The key that exactly `count` of the keys at_rank[i] 2^32 + i do not exceed.
__device__ __forceinline__ uint64_t select_key(const uint32_t* at_rank, int V, int count) {
  __shared__ int bins[256], chosen, before_chosen;
  const int lane = (int)threadIdx.x;
  uint64_t prefix = 0;
  for (int shift = 56;; shift -= 8) {
    if (threadIdx.x < 256) bins[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = threadIdx.x; i < V; i += kSampleThreads) {
      const uint64_t digits = ((uint64_t)at_rank[i] << 32 | (uint32_t)i) >> shift;
      if (digits >> 8 == prefix) atomicAdd(&bins[digits & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x < 32) {  // a lane has eight bins
      int own = 0;
#pragma unroll
      for (int b = 0; b < 8; b++) own += bins[8 * lane + b];
      int up_to = own;
#pragma unroll
      for (int by = 1; by < 32; by *= 2) {
        const int other = __shfl_up_sync(~0u, up_to, by);
        up_to += lane >= by ? other : 0;
      }
      int before = up_to - own;
      if (before < count && count <= up_to) {
        int bin = 8 * lane;
        for (; before + bins[bin] < count; bin++) before += bins[bin];
        chosen = bin;
        before_chosen = before;
      }
    }
    __syncthreads();
    count -= before_chosen;
    prefix = prefix << 8 | (uint64_t)chosen;
    // Keys are distinct, so this holds at shift 0 at the latest.
    if (bins[chosen] == count) return ((prefix + 1) << shift) - 1;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kSampleThreads) arg_max_kernel(int32_t* tokens, const float* logits, int V, int Vp) {
  __shared__ uint64_t warps[kSampleThreads / 32];
  const float* const x = logits + (int64_t)blockIdx.x * Vp;
  uint64_t best = ~0ull;
#pragma unroll 8
  for (int i = threadIdx.x; i < V; i += kSampleThreads) {
    const uint64_t key = candidate_key(x[i], i);
    best = key < best ? key : best;
  }
#pragma unroll
  for (int stage = 0; stage < 2; stage++) {  // lanes of a warp, then warps
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
      const uint64_t other = __shfl_xor_sync(~0u, best, bit);
      best = other < best ? other : best;
    }
    if (stage == 1) continue;
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
    __syncthreads();
    best = warps[threadIdx.x % 32];
  }
  if (threadIdx.x == 0) tokens[blockIdx.x] = (int32_t)(uint32_t)best;
}

// padded: the power of two >= count, at most kMostSelected. ranks[N][V] is room for the keys' upper halves.
__global__ void __launch_bounds__(kSampleThreads)
    sample_selected_kernel(int32_t* tokens, const float* logits, const float* uniforms, uint32_t* ranks, int V, int Vp,
                           int padded, float temperature, int count) {
  __shared__ uint64_t keys[kMostSelected];
  __shared__ float sums[kMostSelected];
  __shared__ int taken;
  const float* const x = logits + (int64_t)blockIdx.x * Vp;
  uint32_t* const rank = ranks + (int64_t)blockIdx.x * V;
#pragma unroll 4
  for (int i = threadIdx.x; i < V; i += kSampleThreads) {
    rank[i] = (uint32_t)(candidate_key(div(x[i], temperature), i) >> 32);
  }
  for (int i = threadIdx.x; i < padded; i += kSampleThreads) keys[i] = ~0ull;
  if (threadIdx.x == 0) taken = 0;
  __syncthreads();
  const uint64_t last = select_key(rank, V, count);
  for (int i = threadIdx.x; i < V; i += kSampleThreads) {
    const uint64_t key = (uint64_t)rank[i] << 32 | (uint32_t)i;
    if (key <= last) keys[atomicAdd(&taken, 1)] = key;  // in any order: they are sorted next
  }
  __syncthreads();
  sort_keys(keys, padded);
  const int place = draw(keys, sums, count, uniforms[blockIdx.x]);
  if (threadIdx.x == 0) tokens[blockIdx.x] = (int32_t)(uint32_t)keys[place];
}

// scratch[N][padded] is room for keys, running[N][padded] for sums; padded: the power of two >= V.
__global__ void __launch_bounds__(kSampleThreads)
    sample_sorted_kernel(int32_t* tokens, const float* logits, const float* uniforms, uint64_t* scratch, float* running,
                         int V, int Vp, int padded, float temperature, int count) {
  uint64_t* const keys = scratch + (int64_t)blockIdx.x * padded;
  const float* const x = logits + (int64_t)blockIdx.x * Vp;
  for (int i = threadIdx.x; i < padded; i += kSampleThreads) {
    keys[i] = i < V ? candidate_key(div(x[i], temperature), i) : ~0ull;
  }
  __syncthreads();
  sort_keys(keys, padded);
  const int place = draw(keys, running + (int64_t)blockIdx.x * padded, count, uniforms[blockIdx.x]);
  if (threadIdx.x == 0) tokens[blockIdx.x] = (int32_t)(uint32_t)keys[place];
}

// ---------------------------------------------------------------- launchers

void sample(Stream stream, int32_t* tokens, const float* logits, const float* uniforms, int64_t N, int64_t V,
            int64_t Vp, float temperature, int64_t top_k) {
  if (N <= 0) return;
  const dim3 grid(grid_of(N)), block(kSampleThreads);
  if (!(temperature > 0.0f)) {
    SAMEBITS_LAUNCH(arg_max_kernel, grid, block, 0, stream, tokens, logits, (int)V, (int)Vp);
    return;
  }
  const int64_t count = top_k > 0 && top_k < V ? top_k : V;
  const bool selected = count < V && count <= kMostSelected;
  int64_t padded = 1;
  while (padded < (selected ? count : V)) padded *= 2;
  if (selected) {
    const Scratch ranks(stream, (size_t)(N * V) * sizeof(uint32_t));
    SAMEBITS_LAUNCH(sample_selected_kernel, grid, block, 0, stream, tokens, logits, uniforms, ranks.as<uint32_t>(),
                    (int)V, (int)Vp, (int)padded, temperature, (int)count);
  } else {
    const Scratch scratch(stream, (size_t)(N * padded) * (sizeof(uint64_t) + sizeof(float)));
    uint64_t* const keys = scratch.as<uint64_t>();
    SAMEBITS_LAUNCH(sample_sorted_kernel, grid, block, 0, stream, tokens, logits, uniforms, keys,
                    reinterpret_cast<float*>(keys + N * padded), (int)V, (int)Vp, (int)padded, temperature, (int)count);
  }
}

}  // namespace device
}  // namespace samebits
