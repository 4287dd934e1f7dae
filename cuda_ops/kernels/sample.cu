// Drawing a token from softmax(logits / temperature), one block of 512 threads per row.
//
// A candidate is a 64-bit key: the value's bits, turned so that larger values sort first, above the column. The keys of
// a row lie in scratch[N][power of two >= V] and are sorted by Batcher's bitonic network; one thread then adds the
// weights, which the block has computed a tile at a time. Any V < 2^31.
//
// order: candidates stand by (value descending, index ascending); weights exp(x - max) are one chain in that order, and
// the first whose running sum exceeds u * total is drawn.
#include "../numerics/exp_log.h"
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kSampleThreads = 512, kWeightTile = 2048;

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

__global__ void __launch_bounds__(kSampleThreads)
    sample_kernel(int32_t* tokens, const float* logits, const float* uniforms, uint64_t* scratch, int V, int Vp,
                  int padded, float temperature, int count) {
  __shared__ float weights[kWeightTile];
  __shared__ int drawn;
  uint64_t* const keys = scratch + (int64_t)blockIdx.x * padded;
  const float* const x = logits + (int64_t)blockIdx.x * Vp;
  const bool divided = temperature > 0.0f;
  for (int i = threadIdx.x; i < padded; i += kSampleThreads) {
    keys[i] = i < V ? candidate_key(divided ? div(x[i], temperature) : x[i], i) : ~0ull;
  }
  if (threadIdx.x == 0) drawn = -1;
  __syncthreads();
  sort_keys(keys, padded);

  if (divided) {
    const float largest = key_value(keys[0]);
    float total = 0.0f, running = 0.0f, threshold = 0.0f;  // of thread 0
    for (int pass = 0; pass < 2; pass++) {
      for (int first = 0; first < count; first += kWeightTile) {
        const int size = count - first < kWeightTile ? count - first : kWeightTile;
        for (int i = threadIdx.x; i < size; i += kSampleThreads) {
          weights[i] = exp_(sub(key_value(keys[first + i]), largest));
        }
        __syncthreads();
        if (threadIdx.x == 0) {
          for (int i = 0; i < size && pass == 0; i++) total = add(total, weights[i]);
          for (int i = 0; i < size && pass == 1 && drawn < 0; i++) {
            running = add(running, weights[i]);
            if (running > threshold) drawn = first + i;
          }
        }
        __syncthreads();
      }
      threshold = mul(uniforms[blockIdx.x], total);
    }
  }
  if (threadIdx.x == 0) {
    const int place = !divided ? 0 : drawn < 0 ? count - 1 : drawn;
    tokens[blockIdx.x] = (int32_t)(uint32_t)keys[place];
  }
}

// ---------------------------------------------------------------- launchers

void sample(Stream stream, int32_t* tokens, const float* logits, const float* uniforms, int64_t N, int64_t V,
            int64_t Vp, float temperature, int64_t top_k) {
  if (N <= 0) return;
  int64_t padded = 1;
  while (padded < V) padded *= 2;
  const int64_t count = top_k > 0 && top_k < V ? top_k : V;
  const Scratch scratch(stream, (size_t)(N * padded) * sizeof(uint64_t));
  SAMEBITS_LAUNCH(sample_kernel, dim3((unsigned)N), dim3(kSampleThreads), 0, stream, tokens, logits, uniforms,
                  scratch.as<uint64_t>(), (int)V, (int)Vp, (int)padded, temperature, (int)count);
}

}  // namespace device
}  // namespace samebits
