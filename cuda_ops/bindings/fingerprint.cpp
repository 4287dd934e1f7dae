#include "checks.h"

#include <ATen/ops/empty.h>

namespace samebits {
namespace {

using at::Tensor;

// x is fp32 or int32: any 32-bit words. out is an int64 of one element on the device of x, so that nothing waits.
void fingerprint_into(const Tensor& out_, const Tensor& x, int64_t offset) {
  TORCH_CHECK(out_.numel() == 1, "out: expected 1 element, got ", out_.sizes());
  const Call call(x);
  call.check_dense(x, "x", x.scalar_type() == at::kInt ? at::kInt : at::kFloat);
  call.check_dense(out_, "out", at::kLong);
  call(&Kernels::fingerprint, (uint64_t*)out_.mutable_data_ptr(), (const uint32_t*)x.const_data_ptr(), x.numel(),
       offset);
}

int64_t fingerprint(const Tensor& x, int64_t offset) {
  const Tensor result = at::empty({1}, x.options().dtype(at::kLong));
  fingerprint_into(result, x, offset);
  return result.item<int64_t>();
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "fingerprint_into(Tensor(a!) out, Tensor x, int offset) -> ()", &fingerprint_into);
  define(m, "fingerprint(Tensor x, int offset) -> int", &fingerprint);
}

}  // namespace samebits
