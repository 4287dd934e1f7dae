#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void check_logits(const Tensor& losses, const Tensor& logits, const Tensor& targets, int64_t vocab_size) {
  check_dims(logits, "logits", 2);
  check_shape(losses, "losses", {logits.size(0)});
  check_shape(targets, "targets", {logits.size(0)});
  TORCH_CHECK(vocab_size > 0 && vocab_size <= logits.size(1), "vocab_size: expected 1 to ", logits.size(1), ", got ",
              vocab_size);
}

void cross_entropy_forward(const Tensor& losses, const Tensor& logits, const Tensor& targets, int64_t vocab_size) {
  check_logits(losses, logits, targets, vocab_size);
  const Call call(losses);
  call(&Kernels::cross_entropy_forward, call.out(losses, "losses"), call.in(logits, "logits"),
       call.indices(targets, "targets", vocab_size), logits.size(0), vocab_size, logits.size(1));
}

void cross_entropy_fused(const Tensor& losses, const Tensor& logits, const Tensor& targets, double dloss,
                         int64_t vocab_size) {
  check_logits(losses, logits, targets, vocab_size);
  const Call call(losses);
  call(&Kernels::cross_entropy_fused, call.out(losses, "losses"), call.out(logits, "logits"),
       call.indices(targets, "targets", vocab_size), (float)dloss, logits.size(0), vocab_size, logits.size(1));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "cross_entropy_forward(Tensor(a!) losses, Tensor logits, Tensor targets, int vocab_size) -> ()",
         &cross_entropy_forward);
  define(m,
         "cross_entropy_fused(Tensor(a!) losses, Tensor(b!) logits, Tensor targets, float dloss, int vocab_size) -> ()",
         &cross_entropy_fused);
}

}  // namespace samebits
