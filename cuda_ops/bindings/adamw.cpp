#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void adamw(const Tensor& param, const Tensor& m, const Tensor& v, const Tensor& grad, const Tensor& factor,
           const Tensor& scalars, double beta1, double beta2, double eps, double weight_decay) {
  check_shape(m, "m", param.sizes());
  check_shape(v, "v", param.sizes());
  check_shape(grad, "grad", param.sizes());
  check_shape(factor, "factor", {1});
  check_shape(scalars, "scalars", {3});
  const Call call(param);
  call(&Kernels::adamw, call.out(param, "param"), call.out(m, "m"), call.out(v, "v"), call.in(grad, "grad"),
       call.in(factor, "factor"), call.in(scalars, "scalars"), param.numel(), (float)beta1, (float)beta2, (float)eps,
       (float)weight_decay);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m,
         "adamw(Tensor(a!) param, Tensor(b!) m, Tensor(c!) v, Tensor grad, Tensor factor, Tensor scalars, float beta1, "
         "float beta2, float eps, float weight_decay) -> ()",
         &adamw);
}

}  // namespace samebits
