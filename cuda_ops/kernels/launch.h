// What a .cu file needs beyond the arithmetic. The same sources are compiled by nvcc and, for tests without a GPU, by
// g++ against tests/cuda_on_cpu/shim.h; only this header knows which.
//
//   SAMEBITS_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)   launch and check the launch
//   SAMEBITS_DYNAMIC_SHARED(type, name);                                       the block's dynamic shared memory
//   copy_async<bytes>(shared, global), copy_async_commit(), copy_async_wait<groups>()   cp.async, bytes 4, 8 or 16
//   grid_of(blocks), blocks_for(items, each)   a grid along x, held to what a GPU takes
//   device_attribute(which)   of the device of the launch: its kind, its size
//   host_memory(bytes)   zeroed memory of the host that the device can write, never freed
//   Scratch scratch(stream, bytes)   device memory for the kernels that a launcher queues (scratch.h)
#pragma once

#include <stdexcept>
#include <string>

#include "kernels.h"
#include "scratch.h"

#if defined(SAMEBITS_CUDA_ON_CPU)
#include "../../tests/cuda_on_cpu/shim.h"
#else
#include <cuda_runtime.h>
#include <string.h>

namespace samebits {
namespace device {

enum Attribute {
  kCapabilityMajor = cudaDevAttrComputeCapabilityMajor,
  kCapabilityMinor = cudaDevAttrComputeCapabilityMinor,
  kProcessors = cudaDevAttrMultiProcessorCount,
  kSharedPerProcessor = cudaDevAttrMaxSharedMemoryPerMultiprocessor,  // bytes that the blocks there share out
};
inline int device_attribute(Attribute which) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, (cudaDeviceAttr)which, device);
  return value;
}

inline void* host_memory(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
  return memset(memory, 0, bytes);
}

template <class Kernel, class... Arguments>
void launch(const char* name, Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, Stream stream,
            Arguments... arguments) {
  if (shared_bytes > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
  }
  // clang-format off
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  // clang-format on
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(name) + ": cannot be launched: " + cudaGetErrorString(error));
  }
}

template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
  if (kBytes == 16) {  // past the near cache, which would keep what is already in shared memory
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(global), "n"(kBytes) : "memory");
  }
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

}  // namespace device
}  // namespace samebits

#define SAMEBITS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define SAMEBITS_DYNAMIC_SHARED(type, name)          \
  extern __shared__ __align__(16) char name##_raw[]; \
  type* name = reinterpret_cast<type*>(name##_raw)
#endif

namespace samebits {
namespace device {

// So many blocks as a grid along x; std::runtime_error where a GPU takes fewer.
inline unsigned grid_of(int64_t blocks) {
  if (blocks > INT32_MAX) {
    throw std::runtime_error("a grid of " + std::to_string(blocks) + " blocks: allowed is up to 2147483647");
  }
  return (unsigned)blocks;
}

inline unsigned blocks_for(int64_t items, int64_t items_per_block) {
  return grid_of((items + items_per_block - 1) / items_per_block);
}

}  // namespace device
}  // namespace samebits
