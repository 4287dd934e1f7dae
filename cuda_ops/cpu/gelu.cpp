// GELU, tanh form, forward and backward. Element by element: no sum.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/gelu.h"

namespace samebits {
namespace SAMEBITS_ISA {

void gelu_forward(float* out, const float* inp, int64_t n) {
  parallel_for(n, 4, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) out[i] = gelu(inp[i]);
  });
}

void gelu_backward(float* dinp, const float* dout, const float* inp, int64_t n) {
  parallel_for(n, 4, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) dinp[i] = mul(dout[i], gelu_derivative(inp[i]));
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
