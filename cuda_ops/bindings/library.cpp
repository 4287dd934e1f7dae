// The library as such: its namespace of operators, the digest of its sources, the GPU backend it may have, and what is
// no op of tensors. The ops are beside this file, one per stem.
#include <torch/library.h>

#include <string>

#include "../cpu/dispatch.h"
#include "backend.h"

#ifndef SAMEBITS_SOURCE_DIGEST
#error "built by cuda_ops/build.py, which passes the digest of sources and flags"
#endif

extern "C" __attribute__((visibility("default"))) const char* samebits_source_digest() {
  return SAMEBITS_SOURCE_DIGEST;
}

namespace samebits {
namespace {

const DeviceBackend* registered = nullptr;

void set_threads_(int64_t count) {
  TORCH_CHECK(count > 0, "threads: expected at least 1, got ", count);
  set_threads((int)count);
}

std::string isa_() { return isa(); }
std::string device_archs_() { return registered ? registered->archs : ""; }

}  // namespace

const DeviceBackend* device_backend() { return registered; }
void register_device_backend(const DeviceBackend* backend) { registered = backend; }

TORCH_LIBRARY(samebits, m) {
  m.def("set_threads(int count) -> ()", &set_threads_);
  m.def("isa() -> str", &isa_);
  m.def("device_archs() -> str", &device_archs_);
}

}  // namespace samebits
