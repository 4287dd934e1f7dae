// out[i] = f(a[i], b[i]) for n elements, the frame of every op without a sum. out may be a or b.
//
// Block k of 256 threads does elements 1024k to 1024k + 1023. Thread t of it does 4t to 4t + 3 with one 128-bit access
// per array if all are 16-byte aligned (kWidth 4), else t, t + 256, t + 512, t + 768. Any n.
#pragma once

#include "pack.h"

namespace samebits {
namespace device {

constexpr int kElementThreads = 256, kElementsPerBlock = 4 * kElementThreads;

// Calls f(i) -> for the groups of kWidth elements that this thread owns; a last group that is not whole goes by ones.
template <int kWidth, class Whole, class Single>
__device__ __forceinline__ void for_own_elements(int64_t n, Whole whole, Single single) {
  const int64_t first = (int64_t)blockIdx.x * kElementsPerBlock;
  if (kWidth == 4) {
    const int64_t i = first + 4 * threadIdx.x;
    if (i + 4 <= n) {
      whole(i);
    } else {
      for (int64_t j = i; j < n; j++) single(j);
    }
  } else {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const int64_t i = first + k * kElementThreads + threadIdx.x;
      if (i < n) single(i);
    }
  }
}

template <int kWidth, class F>
__global__ void __launch_bounds__(kElementThreads)
    elementwise_kernel(float* out, const float* a, const float* b, int64_t n, F f) {
  for_own_elements<kWidth>(
      n,
      [=](int64_t i) {
        Pack<kWidth> x = load<kWidth>(a + i);
        const Pack<kWidth> y = F::kInputs == 2 ? load<kWidth>(b + i) : x;
#pragma unroll
        for (int e = 0; e < kWidth; e++) x.x[e] = f(x.x[e], y.x[e]);
        store<kWidth>(out + i, x);
      },
      [=](int64_t i) { out[i] = f(a[i], F::kInputs == 2 ? b[i] : 0.0f); });
}

template <class F>
void elementwise(Stream stream, float* out, const float* a, const float* b, int64_t n, F f) {
  if (n <= 0) return;
  const dim3 grid(blocks_for(n, kElementsPerBlock));
  if (aligned(out, a, b)) {
    SAMEBITS_LAUNCH((elementwise_kernel<4, F>), grid, dim3(kElementThreads), 0, stream, out, a, b, n, f);
  } else {
    SAMEBITS_LAUNCH((elementwise_kernel<1, F>), grid, dim3(kElementThreads), 0, stream, out, a, b, n, f);
  }
}

}  // namespace device
}  // namespace samebits
