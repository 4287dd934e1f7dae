// The gradient of a bias: column sums. Indices and layouts: columns.h. 128-bit loads where C % 4 == 0 and dout is
// 16-byte aligned; any B, T, C.
//
// order: column reduction (numerics/order.h), sequences in order.
#include "columns.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

struct BiasTerms {
  static constexpr int kSums = 1;
  const float* dout;

  template <int kWidth>
  __device__ __forceinline__ void operator()(Pack<kWidth>* p, int64_t, int64_t at) const {
    const Pack<kWidth> g = load<kWidth>(dout + at);
#pragma unroll
    for (int e = 0; e < kWidth; e++) p[0].x[e] = add(p[0].x[e], g.x[e]);
  }
};

// ---------------------------------------------------------------- launchers

void bias_backward(Stream stream, float* dbias, const float* dout, int64_t B, int64_t T, int64_t C) {
  column_sums(stream, &dbias, BiasTerms{dout}, B, T, C, aligned(dout));
}

}  // namespace device
}  // namespace samebits
