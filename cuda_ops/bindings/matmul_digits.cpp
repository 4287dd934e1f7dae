#include "digits.h"

namespace samebits {
namespace {

using at::Tensor;
using std::optional;

void matmul_digits(const Tensor& out_, const Tensor& a, const Tensor& b, const optional<Tensor>& bias,
                   c10::string_view layout, bool accumulate, c10::string_view tier, int64_t sequence) {
  TORCH_CHECK(layout == "nt" || layout == "nn" || layout == "tn", "layout: expected nt, nn or tn, got ", layout);
  check_dims(a, "a", 2);
  check_dims(b, "b", 2);
  check_counts(a, "a");
  check_counts(b, "b");
  const int code = layout == "nt" ? 0 : layout == "nn" ? 1 : 2, count = digits_of(tier);
  const int64_t M = a.size(code == 2 ? 1 : 0), K = a.size(code == 2 ? 0 : 1);
  const int64_t N = b.size(code == 0 ? 0 : 1);
  TORCH_CHECK(b.size(code == 0 ? 1 : 0) == K, "b: expected K = ", K, " as in a ", a.sizes(), ", got shape ", b.sizes());
  TORCH_CHECK(sequence >= 0 && (sequence == 0 || code == 2), "sequence: expected 0, or with tn the tokens of a ",
              "sequence, got ", sequence);
  check_shape(out_, "out", {M, N});
  if (bias) check_shape(*bias, "bias", {N});
  check_apart(out_, "out", a, "a");
  check_apart(out_, "out", b, "b");
  const Call call(out_);
  call(&Kernels::matmul_digits, call.out(out_, "out"), call.in(a, "a"), call.in(b, "b"), nullptr,
       bias ? call.in(*bias, "bias") : nullptr, M, N, K, code, accumulate, count, sequence);
}

void matmul_kept_digits(const Tensor& out_, const Tensor& a, const Tensor& kept, const optional<Tensor>& bias,
                        c10::string_view tier) {
  check_dims(out_, "out", 2);
  check_dims(a, "a", 2);
  check_counts(out_, "out");
  check_counts(a, "a");
  const int64_t M = a.size(0), K = a.size(1), N = out_.size(1);
  check_shape(out_, "out", {M, N});
  if (bias) check_shape(*bias, "bias", {N});
  check_apart(out_, "out", a, "a");
  const Call call(out_);
  const int count = digits_of(tier);
  call(&Kernels::matmul_digits, call.out(out_, "out"), call.in(a, "a"), nullptr,
       operand(call, kept, "kept", N, K, count), bias ? call.in(*bias, "bias") : nullptr, M, N, K, 0, false, count, 0);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m,
         "matmul_digits(Tensor(a!) out, Tensor a, Tensor b, Tensor? bias, str layout, bool accumulate, str tier, int "
         "sequence) -> ()",
         &matmul_digits);
  define(m, "matmul_kept_digits(Tensor(a!) out, Tensor a, Tensor kept, Tensor? bias, str tier) -> ()",
         &matmul_kept_digits);
}

}  // namespace samebits
