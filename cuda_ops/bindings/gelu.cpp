#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void gelu_forward(const Tensor& out_, const Tensor& inp) {
  check_shape(out_, "out", inp.sizes());
  check_same_or_apart(out_, "out", inp, "inp");
  const Call call(out_);
  call(&Kernels::gelu_forward, call.out(out_, "out"), call.in(inp, "inp"), inp.numel());
}

void gelu_backward(const Tensor& dinp, const Tensor& dout, const Tensor& inp) {
  check_shape(dinp, "dinp", inp.sizes());
  check_shape(dout, "dout", inp.sizes());
  check_same_or_apart(dinp, "dinp", dout, "dout");
  check_same_or_apart(dinp, "dinp", inp, "inp");
  const Call call(dinp);
  call(&Kernels::gelu_backward, call.out(dinp, "dinp"), call.in(dout, "dout"), call.in(inp, "inp"), inp.numel());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "gelu_forward(Tensor(a!) out, Tensor inp) -> ()", &gelu_forward);
  define(m, "gelu_backward(Tensor(a!) dinp, Tensor dout, Tensor inp) -> ()", &gelu_backward);
}

}  // namespace samebits
