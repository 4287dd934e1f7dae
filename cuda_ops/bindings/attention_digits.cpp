#include "attention.h"
#include "digits.h"

namespace samebits {
namespace {

using at::Tensor;

void attention_digits_forward(const Tensor& out_, const Tensor& row_max, const Tensor& row_sum, const Tensor& qkv,
                              int64_t heads, c10::string_view tier) {
  check_heads(qkv, heads);
  const auto [B, T, C] = forward_sizes(out_, row_max, row_sum, qkv, heads);
  const Call call(out_);
  call(&Kernels::attention_digits_forward, call.out(out_, "out"), call.out(row_max, "row_max"),
       call.out(row_sum, "row_sum"), call.in(qkv, "qkv"), B, T, C, heads, digits_of(tier));
}

void attention_digits_cached(const Tensor& out_, const Tensor& key_cache, const Tensor& value_cache, const Tensor& qkv,
                             int64_t heads, int64_t position, c10::string_view tier) {
  check_heads(qkv, heads);
  check_counts(key_cache, "key_cache");
  const auto [B, T, C, capacity] = cached_sizes(out_, key_cache, value_cache, qkv, heads, position);
  const Call call(out_);
  call(&Kernels::attention_digits_cached, call.out(out_, "out"), call.out(key_cache, "key_cache"),
       call.out(value_cache, "value_cache"), call.in(qkv, "qkv"), B, T, C, heads, position, capacity, digits_of(tier));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m,
         "attention_digits_forward(Tensor(a!) out, Tensor(b!) row_max, Tensor(c!) row_sum, Tensor qkv, int heads, str "
         "tier) -> ()",
         &attention_digits_forward);
  define(m,
         "attention_digits_cached(Tensor(a!) out, Tensor(b!) key_cache, Tensor(c!) value_cache, Tensor qkv, int heads, "
         "int "
         "position, str tier) -> ()",
         &attention_digits_cached);
}

}  // namespace samebits
