#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void step_scalars(const Tensor& loss_and_norm, const Tensor& factor, const Tensor& totals, double loss_scale,
                  double clip_norm) {
  check_shape(loss_and_norm, "loss_and_norm", {2});
  check_shape(factor, "factor", {1});
  check_shape(totals, "totals", {2});
  const Call call(loss_and_norm);
  call(&Kernels::step_scalars, call.out(loss_and_norm, "loss_and_norm"), call.out(factor, "factor"),
       call.in(totals, "totals"), (float)loss_scale, (float)clip_norm);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m,
         "step_scalars(Tensor(a!) loss_and_norm, Tensor(b!) factor, Tensor totals, float loss_scale, float clip_norm) "
         "-> ()",
         &step_scalars);
}

}  // namespace samebits
