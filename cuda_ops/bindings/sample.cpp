#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void sample(const Tensor& tokens, const Tensor& logits, const Tensor& uniforms, int64_t vocab_size, double temperature,
            int64_t top_k) {
  check_dims(logits, "logits", 2);
  check_shape(tokens, "tokens", {logits.size(0)});
  check_shape(uniforms, "uniforms", {logits.size(0)});
  TORCH_CHECK(vocab_size > 0 && vocab_size <= logits.size(1), "vocab_size: expected 1 to ", logits.size(1), ", got ",
              vocab_size);
  const Call call(tokens);
  call.check_dense(tokens, "tokens", at::kInt);
  call(&Kernels::sample, tokens.mutable_data_ptr<int32_t>(), call.in(logits, "logits"), call.in(uniforms, "uniforms"),
       logits.size(0), vocab_size, logits.size(1), (float)temperature, top_k);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(
      m,
      "sample(Tensor(a!) tokens, Tensor logits, Tensor uniforms, int vocab_size, float temperature, int top_k) -> ()",
      &sample);
}

}  // namespace samebits
