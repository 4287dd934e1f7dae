#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;
using std::optional;

void matmul(const Tensor& out_, const Tensor& a, const Tensor& b, const optional<Tensor>& bias, c10::string_view layout,
            bool accumulate) {
  TORCH_CHECK(layout == "nt" || layout == "nn" || layout == "tn", "layout: expected nt, nn or tn, got ", layout);
  check_dims(a, "a", 2);
  check_dims(b, "b", 2);
  const int code = layout == "nt" ? 0 : layout == "nn" ? 1 : 2;
  const int64_t M = a.size(code == 2 ? 1 : 0), K = a.size(code == 2 ? 0 : 1);
  const int64_t N = b.size(code == 0 ? 0 : 1);
  TORCH_CHECK(b.size(code == 0 ? 1 : 0) == K, "b: expected K = ", K, " as in a ", a.sizes(), ", got shape ", b.sizes());
  check_shape(out_, "out", {M, N});
  if (bias) check_shape(*bias, "bias", {N});
  check_apart(out_, "out", a, "a");
  check_apart(out_, "out", b, "b");
  const Call call(out_);
  call(&Kernels::matmul, call.out(out_, "out"), call.in(a, "a"), call.in(b, "b"),
       bias ? call.in(*bias, "bias") : nullptr, M, N, K, code, accumulate);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "matmul(Tensor(a!) out, Tensor a, Tensor b, Tensor? bias, str layout, bool accumulate) -> ()", &matmul);
}

}  // namespace samebits
