#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void add(const Tensor& out_, const Tensor& a, const Tensor& b) {
  check_shape(out_, "out", a.sizes());
  check_shape(b, "b", a.sizes());
  check_same_or_apart(out_, "out", a, "a");
  check_same_or_apart(out_, "out", b, "b");
  const Call call(out_);
  call(&Kernels::add, call.out(out_, "out"), call.in(a, "a"), call.in(b, "b"), a.numel());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) { define(m, "add(Tensor(a!) out, Tensor a, Tensor b) -> ()", &add); }

}  // namespace samebits
