#include "checks.h"

#include <ATen/ops/empty.h>

namespace samebits {
namespace {

using at::Tensor;

void first_nonfinite_into(const Tensor& out_, const Tensor& x) {
  TORCH_CHECK(out_.numel() == 1, "out: expected 1 element, got ", out_.sizes());
  const Call call(x);
  call.check_dense(out_, "out", at::kLong);
  call(&Kernels::first_nonfinite, out_.mutable_data_ptr<int64_t>(), call.in(x, "x"), x.numel());
}

int64_t first_nonfinite(const Tensor& x) {
  const Tensor result = at::empty({1}, x.options().dtype(at::kLong));
  first_nonfinite_into(result, x);
  return result.item<int64_t>();
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "first_nonfinite_into(Tensor(a!) out, Tensor x) -> ()", &first_nonfinite_into);
  define(m, "first_nonfinite(Tensor x) -> int", &first_nonfinite);
}

}  // namespace samebits
