// The fp32 FMA rate of a GPU: chains in registers and nothing else. For benchmarks/gpu.py alone.
#include <cuda_runtime.h>

constexpr int kChains = 16, kThreads = 256;

__global__ void __launch_bounds__(kThreads) peak(float* out, int steps) {
  float x[kChains];
  for (int c = 0; c < kChains; c++) x[c] = (float)(threadIdx.x + c);
  const float a = 1.0f - 1e-7f * (float)blockIdx.x, b = 1e-3f * (float)threadIdx.x;
#pragma unroll 8
  for (int i = 0; i < steps; i++) {
#pragma unroll
    for (int c = 0; c < kChains; c++) x[c] = __fmaf_rn(x[c], a, b);
  }
  float sum = 0.0f;
  for (int c = 0; c < kChains; c++) sum += x[c];
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

// out[blocks * 256]; returns the floating-point operations queued, or less than 0 if the launch failed.
extern "C" double peak_launch(float* out, int blocks, int steps, cudaStream_t stream) {
  peak<<<blocks, kThreads, 0, stream>>>(out, steps);
  if (cudaGetLastError() != cudaSuccess) return -1.0;
  return 2.0 * kChains * kThreads * (double)blocks * (double)steps;
}
