// The sizes of attention and the checks of its tensors, for the bindings of every tier.
#pragma once

#include "checks.h"

namespace samebits {

struct AttentionSizes {
  int64_t B, T, C;
};

inline AttentionSizes attention_sizes(const at::Tensor& qkv, const at::Tensor& out_, int64_t heads) {
  check_dims(qkv, "qkv", 3);
  const int64_t C = qkv.size(2) / 3;
  TORCH_CHECK(heads > 0 && C > 0 && qkv.size(2) == 3 * C && C % heads == 0,
              "qkv: expected [B, T, 3C] with C a multiple of heads ", heads, ", got ", qkv.sizes());
  check_shape(out_, "out", {qkv.size(0), qkv.size(1), C});
  return {qkv.size(0), qkv.size(1), C};
}

inline AttentionSizes forward_sizes(const at::Tensor& out_, const at::Tensor& row_max, const at::Tensor& row_sum,
                                    const at::Tensor& qkv, int64_t heads) {
  const AttentionSizes sizes = attention_sizes(qkv, out_, heads);
  check_shape(row_max, "row_max", {sizes.B, heads, sizes.T});
  check_shape(row_sum, "row_sum", {sizes.B, heads, sizes.T});
  check_apart(out_, "out", qkv, "qkv");
  return sizes;
}

inline AttentionSizes backward_sizes(const at::Tensor& dqkv, const at::Tensor& dout, const at::Tensor& out_,
                                     const at::Tensor& qkv, const at::Tensor& row_max, const at::Tensor& row_sum,
                                     int64_t heads) {
  const AttentionSizes sizes = attention_sizes(qkv, out_, heads);
  check_shape(dqkv, "dqkv", qkv.sizes());
  check_shape(dout, "dout", out_.sizes());
  check_shape(row_max, "row_max", {sizes.B, heads, sizes.T});
  check_shape(row_sum, "row_sum", {sizes.B, heads, sizes.T});
  check_apart(dqkv, "dqkv", qkv, "qkv");
  return sizes;
}

struct CachedSizes {
  int64_t B, T, C, capacity;
};

inline CachedSizes cached_sizes(const at::Tensor& out_, const at::Tensor& key_cache, const at::Tensor& value_cache,
                                const at::Tensor& qkv, int64_t heads, int64_t position) {
  const auto [B, T, C] = attention_sizes(qkv, out_, heads);
  check_dims(key_cache, "key_cache", 4);
  const int64_t capacity = key_cache.size(2);
  check_shape(key_cache, "key_cache", {B, heads, capacity, C / heads});
  check_shape(value_cache, "value_cache", key_cache.sizes());
  TORCH_CHECK(position >= 0 && position + T <= capacity, "position: ", position, " + ", T,
              " tokens exceed the cache's ", capacity);
  return {B, T, C, capacity};
}

}  // namespace samebits
