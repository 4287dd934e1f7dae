#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void unary(const Tensor& out_, const Tensor& inp, int64_t function) {
  check_shape(out_, "out", inp.sizes());
  TORCH_CHECK(function >= 0 && function <= 6, "function: expected 0 to 6, got ", function);
  const Call call(out_);
  call(&Kernels::unary, call.out(out_, "out"), call.in(inp, "inp"), inp.numel(), (int)function);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) { define(m, "unary(Tensor(a!) out, Tensor inp, int function) -> ()", &unary); }

}  // namespace samebits
