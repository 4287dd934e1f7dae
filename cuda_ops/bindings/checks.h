// What the binding of an op is made of: checks of its arguments, each of which says what was expected and what was
// given, the call of a kernel, and the definition of the op.
#pragma once

#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <string.h>

#include <optional>
#include <string>

#include "../cpu/dispatch.h"
#include "backend.h"

namespace samebits {

inline void check_shape(const at::Tensor& t, const char* name, at::IntArrayRef expected) {
  TORCH_CHECK(t.sizes() == expected, name, ": expected shape ", expected, ", got ", t.sizes());
}

inline void check_dims(const at::Tensor& t, const char* name, int64_t expected) {
  TORCH_CHECK(t.dim() == expected, name, ": expected ", expected, " dimensions, got shape ", t.sizes());
}

// Two tensors that must not share memory: one is written while the other is read in another order.
inline void check_apart(const at::Tensor& a, const char* a_name, const at::Tensor& b, const char* b_name) {
  const char *a0 = (const char*)a.const_data_ptr(), *b0 = (const char*)b.const_data_ptr();
  TORCH_CHECK(a.nbytes() == 0 || b.nbytes() == 0 || a0 + a.nbytes() <= b0 || b0 + b.nbytes() <= a0, a_name, " and ",
              b_name, " share memory");
}

// Two tensors that are walked in the same order, element by element: one may be the other, but not overlap it.
inline void check_same_or_apart(const at::Tensor& a, const char* a_name, const at::Tensor& b, const char* b_name) {
  if (a.const_data_ptr() != b.const_data_ptr()) check_apart(a, a_name, b, b_name);
}

// One call of an op: the device of its first tensor, where all others must be, and the kernels that run there.
// Arguments are checked before that device is made the current one, so that a message never passes a device being given
// back.
class Call {
 public:
  explicit Call(const at::Tensor& first) : device_(first.device()) {
    if (device_.is_cpu()) {
      kernels_ = kernels();
      TORCH_CHECK(kernels_, "SAMEBITS_ISA=", isa(),
                  " cannot run on this CPU: allowed are baseline, v3 and v4 as far as it has them");
      return;
    }
    TORCH_CHECK(device_.is_cuda(), "expected a tensor on the CPU or on a CUDA device, got one on ", device_);
    TORCH_CHECK(device_backend(), "a tensor is on ", device_,
                ", but the library was compiled without CUDA kernels; run: ",
                "python -m pipeline.compile --archs auto (it needs nvcc)");
    device_backend()->check_usable(device_.index());
    kernels_ = device_backend()->kernels;
  }

  // Runs a kernel of the table on the call's device.
  template <class Kernel, class... Arguments>
  void operator()(Kernel Kernels::* kernel, Arguments... arguments) const {
    const c10::OptionalDeviceGuard guard(current());
    (kernels_->*kernel)(arguments...);
  }

  void check_dense(const at::Tensor& t, const char* name, at::ScalarType type) const {
    TORCH_CHECK(t.device() == device_, name, ": expected a tensor on ", device_, " as the first one, got one on ",
                t.device());
    TORCH_CHECK(t.scalar_type() == type, name, ": expected dtype ", type, ", got ", t.scalar_type());
    TORCH_CHECK(t.is_contiguous(), name, ": expected a contiguous tensor, got strides ", t.strides(), " for shape ",
                t.sizes());
  }

  const float* in(const at::Tensor& t, const char* name) const {
    check_dense(t, name, at::kFloat);
    return t.const_data_ptr<float>();
  }

  float* out(const at::Tensor& t, const char* name) const {
    check_dense(t, name, at::kFloat);
    return t.mutable_data_ptr<float>();
  }

  // int32 indices, each in [0, limit), or with `ascending` rising and then -1 from some place on. On a GPU the check is
  // queued before the kernel, since reading the values here would wait for the device and could not be captured in a
  // graph.
  const int32_t* indices(const at::Tensor& t, const char* name, int64_t limit, bool ascending = false) const {
    check_dense(t, name, at::kInt);
    const int32_t* p = t.const_data_ptr<int32_t>();
    if (device_.is_cuda()) {
      const c10::OptionalDeviceGuard guard(current());
      device_backend()->check_indices(p, t.numel(), limit, ascending, name);
      return p;
    }
    for (int64_t i = 0; i < t.numel(); i++) {
      if (ascending && p[i] == -1) continue;
      TORCH_CHECK(p[i] >= 0 && p[i] < limit, name, ": element ", i, " is ", p[i], ", allowed is 0 to ", limit - 1);
      TORCH_CHECK(!ascending || i == 0 || (p[i] > p[i - 1] && p[i - 1] != -1), name,
                  ": expected ascending and distinct, got ", i ? p[i - 1] : 0, " then ", p[i], " at ", i);
    }
    return p;
  }

 private:
  // The device to make the current one: a CPU needs none.
  std::optional<c10::Device> current() const { return device_.is_cpu() ? std::nullopt : std::optional(device_); }

  c10::Device device_;
  const Kernels* kernels_;
};

// An op by its schema, with one body for both devices: what differs is the table of kernels that Call picks.
template <class Body>
void define(torch::Library& m, const char* schema, Body* body) {
  const std::string name(schema, strchr(schema, '('));
  m.def(schema);
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    m.impl(name.c_str(), torch::dispatch(key, body));
  }
}

}  // namespace samebits
