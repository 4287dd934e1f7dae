#include "digits.h"

namespace samebits {
namespace {

using at::Tensor;

void digits(const Tensor& out_, const Tensor& x, bool transposed, c10::string_view tier) {
  check_dims(x, "x", 2);
  check_counts(x, "x");
  const int64_t rows = x.size(transposed ? 1 : 0), K = x.size(transposed ? 0 : 1);
  const int count = digits_of(tier);
  const Call call(out_);
  call(&Kernels::digits, operand(call, out_, "out", rows, K, count), call.in(x, "x"), rows, K, transposed, count);
}

int64_t digits_bytes(int64_t rows, int64_t K, c10::string_view tier) { return operand_bytes(rows, K, digits_of(tier)); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "digits(Tensor(a!) out, Tensor x, bool transposed, str tier) -> ()", &digits);
  m.def("digits_bytes(int rows, int K, str tier) -> int", &digits_bytes);
}

}  // namespace samebits
