// Checks of the arguments of an op: each failure says what was expected and what was given.
#pragma once

#include <torch/library.h>

#include <string>

namespace samebits {

inline void check_dense(const at::Tensor& t, const char* name, at::ScalarType type) {
  TORCH_CHECK(t.device().is_cpu(), name, ": expected a CPU tensor, got one on ", t.device());
  TORCH_CHECK(t.scalar_type() == type, name, ": expected dtype ", type, ", got ", t.scalar_type());
  TORCH_CHECK(t.is_contiguous(), name, ": expected a contiguous tensor, got strides ", t.strides(), " for shape ",
              t.sizes());
}

inline void check_shape(const at::Tensor& t, const char* name, at::IntArrayRef expected) {
  TORCH_CHECK(t.sizes() == expected, name, ": expected shape ", expected, ", got ", t.sizes());
}

inline void check_dims(const at::Tensor& t, const char* name, int64_t expected) {
  TORCH_CHECK(t.dim() == expected, name, ": expected ", expected, " dimensions, got shape ", t.sizes());
}

inline const float* in(const at::Tensor& t, const char* name) {
  check_dense(t, name, at::kFloat);
  return t.const_data_ptr<float>();
}

inline float* out(const at::Tensor& t, const char* name) {
  check_dense(t, name, at::kFloat);
  return t.mutable_data_ptr<float>();
}

// int32 indices, each in [first, limit)
inline const int32_t* indices(const at::Tensor& t, const char* name, int64_t limit, int64_t first = 0) {
  check_dense(t, name, at::kInt);
  const int32_t* p = t.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < t.numel(); i++) {
    TORCH_CHECK(p[i] >= first && p[i] < limit, name, ": element ", i, " is ", p[i], ", allowed is ", first, " to ",
                limit - 1);
  }
  return p;
}

// Two tensors that must not share memory: one is written while the other is read in another order.
inline void check_apart(const at::Tensor& a, const char* a_name, const at::Tensor& b, const char* b_name) {
  const char *a0 = (const char*)a.const_data_ptr(), *b0 = (const char*)b.const_data_ptr();
  TORCH_CHECK(a.nbytes() == 0 || b.nbytes() == 0 || a0 + a.nbytes() <= b0 || b0 + b.nbytes() <= a0, a_name, " and ",
              b_name, " share memory");
}

}  // namespace samebits
