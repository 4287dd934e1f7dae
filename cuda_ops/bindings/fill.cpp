#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void fill_normal(const Tensor& out_, int64_t seed, int64_t stream, int64_t offset, double mean, double std) {
  const Call call(out_);
  call(&Kernels::fill_normal, call.out(out_, "out"), out_.numel(), (uint64_t)seed, (uint32_t)stream, (uint64_t)offset,
       (float)mean, (float)std);
}

void fill_uniform(const Tensor& out_, int64_t seed, int64_t stream, int64_t offset) {
  const Call call(out_);
  call(&Kernels::fill_uniform, call.out(out_, "out"), out_.numel(), (uint64_t)seed, (uint32_t)stream, (uint64_t)offset);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "fill_normal(Tensor(a!) out, int seed, int stream, int offset, float mean, float std) -> ()", &fill_normal);
  define(m, "fill_uniform(Tensor(a!) out, int seed, int stream, int offset) -> ()", &fill_uniform);
}

}  // namespace samebits
