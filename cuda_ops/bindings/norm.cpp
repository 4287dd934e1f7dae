#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void norm_partials(const Tensor& partials, const Tensor& x, int64_t chunk) {
  TORCH_CHECK(chunk > 0, "chunk: expected a positive size, got ", chunk);
  check_shape(partials, "partials", {(x.numel() + chunk - 1) / chunk});
  const Call call(partials);
  call(&Kernels::norm_partials, call.out(partials, "partials"), call.in(x, "x"), x.numel(), chunk);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "norm_partials(Tensor(a!) partials, Tensor x, int chunk) -> ()", &norm_partials);
}

}  // namespace samebits
