// The sizes of attention, for both its bindings.
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

}  // namespace samebits
