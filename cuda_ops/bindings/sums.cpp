#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void chain_sum(const Tensor& total, const Tensor& losses) {
  TORCH_CHECK(total.numel() == 1, "total: expected 1 element, got ", total.sizes());
  const Call call(total);
  call(&Kernels::chain_sum, call.out(total, "total"), call.in(losses, "losses"), losses.numel());
}

void tree_sum(const Tensor& out_, const Tensor& x) {
  TORCH_CHECK(out_.numel() == 1, "out: expected 1 element, got ", out_.sizes());
  const Call call(out_);
  call(&Kernels::tree_sum, call.out(out_, "out"), call.in(x, "x"), x.numel());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "chain_sum(Tensor(a!) total, Tensor losses) -> ()", &chain_sum);
  define(m, "tree_sum(Tensor(a!) out, Tensor x) -> ()", &tree_sum);
}

}  // namespace samebits
