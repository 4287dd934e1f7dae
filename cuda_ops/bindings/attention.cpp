#include "attention.h"

namespace samebits {
namespace {

using at::Tensor;

void attention_forward(const Tensor& out_, const Tensor& row_max, const Tensor& row_sum, const Tensor& qkv,
                       int64_t heads) {
  const auto [B, T, C] = forward_sizes(out_, row_max, row_sum, qkv, heads);
  const Call call(out_);
  call(&Kernels::attention_forward, call.out(out_, "out"), call.out(row_max, "row_max"), call.out(row_sum, "row_sum"),
       call.in(qkv, "qkv"), B, T, C, heads);
}

void attention_cached(const Tensor& out_, const Tensor& key_cache, const Tensor& value_cache, const Tensor& qkv,
                      int64_t heads, int64_t position) {
  const auto [B, T, C, capacity] = cached_sizes(out_, key_cache, value_cache, qkv, heads, position);
  const Call call(out_);
  call(&Kernels::attention_cached, call.out(out_, "out"), call.out(key_cache, "key_cache"),
       call.out(value_cache, "value_cache"), call.in(qkv, "qkv"), B, T, C, heads, position, capacity);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "attention_forward(Tensor(a!) out, Tensor(b!) row_max, Tensor(c!) row_sum, Tensor qkv, int heads) -> ()",
         &attention_forward);
  define(m,
         "attention_cached(Tensor(a!) out, Tensor(b!) key_cache, Tensor(c!) value_cache, Tensor qkv, int heads, int "
         "position) -> ()",
         &attention_cached);
}

}  // namespace samebits
