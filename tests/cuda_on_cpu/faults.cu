// Kernels that are wrong on purpose: each must end in an error that names it (tests/ops/test_shim.py).
#include "../../cuda_ops/kernels/launch.h"

namespace samebits {
namespace device {

__global__ void missed_barrier(float* out) {
  if (threadIdx.x != 5) __syncthreads();
  out[threadIdx.x] = 0.0f;
}

__global__ void two_barriers(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 0.0f;
}

__global__ void lost_lane(float* out) {
  if (threadIdx.x % 32 != 7) out[threadIdx.x] = __shfl_xor_sync(~0u, out[threadIdx.x], 1);
}

__global__ void endless(float* out) {
  volatile float* const x = out;
  while (x[threadIdx.x] == 0.0f) {
  }
}

__global__ void unaligned_copy(float* out) {
  __shared__ __align__(16) float tile[8];
  copy_async<16>(tile, out + 1);
  copy_async_commit();
  copy_async_wait<0>();
}

// What it finds in shared memory, in order: at the start, after a copy is issued, after it is waited for.
__global__ void memory(float* out) {
  __shared__ __align__(16) float tile[4];
  SAMEBITS_DYNAMIC_SHARED(float, dynamic);
  out[4] = tile[3];
  out[5] = dynamic[0];
  tile[0] = dynamic[0] = 7.0f;
  copy_async<16>(tile, out);
  copy_async_commit();
  out[6] = tile[0];
  copy_async_wait<0>();
  out[7] = tile[0];
}

}  // namespace device
}  // namespace samebits

extern "C" __attribute__((visibility("default"))) const char* samebits_fault(int which, float* out) {
  using namespace samebits::device;
  static std::string message;
  message.clear();
  try {
    if (which == 0) SAMEBITS_LAUNCH(missed_barrier, dim3(2), dim3(64), 0, nullptr, out);
    if (which == 1) SAMEBITS_LAUNCH(two_barriers, dim3(1), dim3(64), 0, nullptr, out);
    if (which == 2) SAMEBITS_LAUNCH(lost_lane, dim3(1), dim3(64), 0, nullptr, out);
    if (which == 3) SAMEBITS_LAUNCH(endless, dim3(1), dim3(32), 0, nullptr, out);
    if (which == 4) SAMEBITS_LAUNCH(unaligned_copy, dim3(1), dim3(1), 0, nullptr, out);
    if (which == 5) SAMEBITS_LAUNCH(memory, dim3(1), dim3(1), 16, nullptr, out);
    if (which == 6) SAMEBITS_LAUNCH(memory, dim3(0), dim3(1), 16, nullptr, out);
    if (which == 7) SAMEBITS_LAUNCH(memory, dim3(1), dim3(2048), 16, nullptr, out);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
