#include "attention.h"
#include "digits.h"

namespace samebits {
namespace {

using at::Tensor;

void attention_digits_backward(const Tensor& dqkv, const Tensor& dout, const Tensor& out_, const Tensor& qkv,
                               const Tensor& row_max, const Tensor& row_sum, int64_t heads, c10::string_view tier) {
  check_heads(qkv, heads);
  const auto [B, T, C] = backward_sizes(dqkv, dout, out_, qkv, row_max, row_sum, heads);
  const Call call(dqkv);
  call(&Kernels::attention_digits_backward, call.out(dqkv, "dqkv"), call.in(dout, "dout"), call.in(out_, "out"),
       call.in(qkv, "qkv"), call.in(row_max, "row_max"), call.in(row_sum, "row_sum"), B, T, C, heads, digits_of(tier));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m,
         "attention_digits_backward(Tensor(a!) dqkv, Tensor dout, Tensor out, Tensor qkv, Tensor row_max, Tensor "
         "row_sum, int "
         "heads, str tier) -> ()",
         &attention_digits_backward);
}

}  // namespace samebits
