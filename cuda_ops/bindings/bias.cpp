#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void bias_backward(const Tensor& dbias, const Tensor& dout) {
  check_dims(dout, "dout", 3);
  check_shape(dbias, "dbias", {dout.size(2)});
  const Call call(dbias);
  call(&Kernels::bias_backward, call.out(dbias, "dbias"), call.in(dout, "dout"), dout.size(0), dout.size(1),
       dout.size(2));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) { define(m, "bias_backward(Tensor(a!) dbias, Tensor dout) -> ()", &bias_backward); }

}  // namespace samebits
