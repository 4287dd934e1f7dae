// The rate of mma.sync for 8-bit integers: sums in registers and nothing else. For benchmarks/gpu_digits.py alone.
#include <cuda_runtime.h>
#include <stdint.h>

constexpr int kSums = 8, kThreads = 256;

__global__ void __launch_bounds__(kThreads) peak_mma(int* out, int steps) {
  int d[kSums][4];
  for (int i = 0; i < 4 * kSums; i++) d[i / 4][i % 4] = (int)threadIdx.x + i;
  const uint32_t a = threadIdx.x * 0x01010101u, b = blockIdx.x * 0x01010101u;
#pragma unroll 4
  for (int i = 0; i < steps; i++) {
#pragma unroll
    for (int n = 0; n < kSums; n++) {
      asm volatile(
          "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+r"(d[n][0]), "+r"(d[n][1]), "+r"(d[n][2]), "+r"(d[n][3])
          : "r"(a), "r"(b), "r"(a), "r"(b), "r"(a), "r"(b));
    }
  }
  int sum = 0;
  for (int i = 0; i < 4 * kSums; i++) sum += d[i / 4][i % 4];
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

// out[blocks * 256] of 4 bytes; returns the operations queued, or less than 0 if the launch failed.
extern "C" double peak_launch(void* out, int blocks, int steps, cudaStream_t stream) {
  peak_mma<<<blocks, kThreads, 0, stream>>>((int*)out, steps);
  if (cudaGetLastError() != cudaSuccess) return -1.0;
  return 2.0 * 16 * 8 * 32 * kSums * (kThreads / 32) * (double)blocks * (double)steps;
}
