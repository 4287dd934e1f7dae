// GELU, tanh form, forward and backward. Indices and divisibility: elementwise.h.
//
// order: no sum; gelu() and gelu_derivative() of numerics/gelu.h.
#include "../numerics/gelu.h"
#include "elementwise.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

struct GeluForward {
  static constexpr int kInputs = 1;
  __device__ float operator()(float inp, float) const { return gelu(inp); }
};

struct GeluBackward {
  static constexpr int kInputs = 2;
  __device__ float operator()(float dout, float inp) const { return mul(dout, gelu_derivative(inp)); }
};

// ---------------------------------------------------------------- launchers

void gelu_forward(Stream stream, float* out, const float* inp, int64_t n) {
  elementwise(stream, out, inp, nullptr, n, GeluForward());
}

void gelu_backward(Stream stream, float* dinp, const float* dout, const float* inp, int64_t n) {
  elementwise(stream, dinp, dout, inp, n, GeluBackward());
}

}  // namespace device
}  // namespace samebits
