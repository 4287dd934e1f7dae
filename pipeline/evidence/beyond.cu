// Two faults on purpose: what memcheck and racecheck must see, or what they find clean means nothing.
// Used by the part `sanitizer` of gpu_parts.py.
#include <cuda_runtime.h>

// buffer [index]: one write, beyond the buffer where index is its size.
__global__ void write_at(float* buffer, long long index) { buffer[index] = 1.0f; }

// buffer [64]: reversed through shared memory without the barrier between write and read.
__global__ void reverse_without_barrier(float* buffer) {
  __shared__ float tile[64];
  tile[threadIdx.x] = buffer[threadIdx.x];
  buffer[threadIdx.x] = tile[63 - threadIdx.x];
}

extern "C" int write_beyond(float* buffer, long long size) {
  write_at<<<1, 1>>>(buffer, size);
  return static_cast<int>(cudaDeviceSynchronize());
}

extern "C" int race(float* buffer, long long) {
  reverse_without_barrier<<<1, 64>>>(buffer);
  return static_cast<int>(cudaDeviceSynchronize());
}
