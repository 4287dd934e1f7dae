#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;
using std::optional;

void layernorm_forward(const Tensor& out_, const Tensor& mean, const Tensor& rstd, const Tensor& inp,
                       const Tensor& weight, const Tensor& bias, double eps) {
  check_dims(weight, "weight", 1);
  const int64_t C = weight.size(0);
  TORCH_CHECK(C > 0 && inp.dim() > 0 && inp.size(-1) == C, "inp: expected last dimension ", C, ", got ", inp.sizes());
  const int64_t N = inp.numel() / C;
  check_shape(out_, "out", inp.sizes());
  check_shape(bias, "bias", {C});
  TORCH_CHECK(mean.numel() == N && rstd.numel() == N, "mean, rstd: expected ", N, " elements, got ", mean.sizes(),
              " and ", rstd.sizes());
  const Call call(out_);
  call(&Kernels::layernorm_forward, call.out(out_, "out"), call.out(mean, "mean"), call.out(rstd, "rstd"),
       call.in(inp, "inp"), call.in(weight, "weight"), call.in(bias, "bias"), N, C, (float)eps);
}

void layernorm_backward(const Tensor& dinp, const Tensor& dweight, const Tensor& dbias, const Tensor& dout,
                        const optional<Tensor>& dresidual, const Tensor& inp, const Tensor& weight, const Tensor& mean,
                        const Tensor& rstd) {
  check_dims(inp, "inp", 3);
  const int64_t B = inp.size(0), T = inp.size(1), C = inp.size(2);
  check_shape(dinp, "dinp", inp.sizes());
  check_shape(dout, "dout", inp.sizes());
  check_same_or_apart(dinp, "dinp", dout, "dout");
  if (dresidual) {
    check_shape(*dresidual, "dresidual", inp.sizes());
    check_same_or_apart(dinp, "dinp", *dresidual, "dresidual");
  }
  check_shape(weight, "weight", {C});
  check_shape(dweight, "dweight", {C});
  check_shape(dbias, "dbias", {C});
  check_shape(mean, "mean", {B, T});
  check_shape(rstd, "rstd", {B, T});
  check_apart(dinp, "dinp", inp, "inp");
  const Call call(dinp);
  call(&Kernels::layernorm_backward, call.out(dinp, "dinp"), call.out(dweight, "dweight"), call.out(dbias, "dbias"),
       call.in(dout, "dout"), dresidual ? call.in(*dresidual, "dresidual") : nullptr, call.in(inp, "inp"),
       call.in(weight, "weight"), call.in(mean, "mean"), call.in(rstd, "rstd"), B, T, C);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m,
         "layernorm_forward(Tensor(a!) out, Tensor(b!) mean, Tensor(c!) rstd, Tensor inp, Tensor weight, Tensor bias, "
         "float eps) -> ()",
         &layernorm_forward);
  define(m,
         "layernorm_backward(Tensor(a!) dinp, Tensor(b!) dweight, Tensor(c!) dbias, Tensor dout, Tensor? dresidual, "
         "Tensor inp, Tensor weight, Tensor mean, Tensor rstd) -> ()",
         &layernorm_backward);
}

}  // namespace samebits
