// The CUDA backend's side of the bindings: stream, scratch memory, and whether a GPU suits. Only in libraries compiled
// for GPUs.
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/library.h>

#include <string>

#include "../kernels/check.h"
#include "../kernels/scratch.h"
#include "backend.h"

#ifndef SAMEBITS_ARCHS
#error "built by cuda_ops/build.py, which passes the architectures as in \"80,86,90a\""
#endif

namespace samebits {

// The caching allocator gives memory to the next request on the same stream, in graph capture from the graph's pool.
device::Scratch::Scratch(Stream stream, size_t bytes)
    : data_(bytes ? c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(bytes, stream) : nullptr) {}
device::Scratch::~Scratch() {
  if (data_) c10::cuda::CUDACachingAllocator::raw_delete(data_);
}

namespace {

Stream current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

template <class Launcher, Launcher kLauncher>
struct OnCurrentStream;
template <class... Arguments, void (*kLauncher)(Stream, Arguments...)>
struct OnCurrentStream<void (*)(Stream, Arguments...), kLauncher> {
  static void run(Arguments... arguments) { kLauncher(current_stream(), arguments...); }
};

const Kernels kTable = {
#define KERNEL(name, arguments) OnCurrentStream<void (*)(Stream, SAMEBITS_UNPACK arguments), &device::name>::run,
#include "../kernels.inc"
#undef KERNEL
};

// Machine code for compute capability a.b runs on a.c, c >= b; with an "a" behind, as in "90a", on a.b alone.
bool holds_code_for(int major, int minor) {
  const std::string archs = SAMEBITS_ARCHS;
  for (size_t at = 0; at < archs.size(); at = archs.find(',', at) + 1) {
    size_t digits = 0;
    const int arch = std::stoi(archs.substr(at), &digits);
    const bool alone = archs.substr(at + digits, 1) == "a";
    if (arch / 10 == major && (alone ? arch % 10 == minor : arch % 10 <= minor)) return true;
    if (archs.find(',', at) == std::string::npos) break;
  }
  return false;
}

void check_usable(int device) {
  static bool known[64] = {};
  if (device < 0 || device >= 64 || known[device]) return;
  int major = 0, minor = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  TORCH_CHECK(error == cudaSuccess, "cuda:", device, ": ", cudaGetErrorString(error));
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  TORCH_CHECK(holds_code_for(major, minor), "cuda:", device, " has compute capability ", major, ".", minor,
              ", and the library holds code for ", SAMEBITS_ARCHS,
              "; run: python -m pipeline.compile --archs auto on this machine");
  known[device] = true;
}

void check_indices(const int32_t* indices, int64_t n, int64_t limit, bool ascending, const char* name) {
  device::check_indices(current_stream(), indices, n, limit, ascending, name);
}

const DeviceBackend kBackend = {&kTable, SAMEBITS_ARCHS, check_usable, check_indices};

struct Registration {
  Registration() { register_device_backend(&kBackend); }
} registration;

}  // namespace
}  // namespace samebits
