// One AdamW step over n parameters. Indices and divisibility: elementwise.h.
//
// order: no sum; adamw_update() of numerics/adamw.h.
#include "../numerics/adamw.h"
#include "elementwise.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

template <int kWidth>
__global__ void __launch_bounds__(kElementThreads)
    adamw_kernel(float* param, float* m, float* v, const float* grad, const float* factor, const float* scalars,
                 int64_t n, float beta1, float beta2, float eps, float weight_decay) {
  if (*factor != *factor) return;
  const AdamWScalars s = adamw_scalars(*factor, scalars[0], beta1, beta2, eps, weight_decay, scalars[1], scalars[2]);
  for_own_elements<kWidth>(
      n,
      [=](int64_t i) {
        Pack<kWidth> p = load<kWidth>(param + i), first = load<kWidth>(m + i), second = load<kWidth>(v + i);
        const Pack<kWidth> g = load<kWidth>(grad + i);
#pragma unroll
        for (int e = 0; e < kWidth; e++) adamw_update(&p.x[e], &first.x[e], &second.x[e], g.x[e], s);
        store<kWidth>(param + i, p);
        store<kWidth>(m + i, first);
        store<kWidth>(v + i, second);
      },
      [=](int64_t i) { adamw_update(param + i, m + i, v + i, grad[i], s); });
}

// ---------------------------------------------------------------- launchers

void adamw(Stream stream, float* param, float* m, float* v, const float* grad, const float* factor,
           const float* scalars, int64_t n, float beta1, float beta2, float eps, float weight_decay) {
  if (n <= 0) return;
  const dim3 grid(blocks_for(n, kElementsPerBlock));
  if (aligned(param, m, v, grad)) {
    SAMEBITS_LAUNCH(adamw_kernel<4>, grid, dim3(kElementThreads), 0, stream, param, m, v, grad, factor, scalars, n,
                    beta1, beta2, eps, weight_decay);
  } else {
    SAMEBITS_LAUNCH(adamw_kernel<1>, grid, dim3(kElementThreads), 0, stream, param, m, v, grad, factor, scalars, n,
                    beta1, beta2, eps, weight_decay);
  }
}

}  // namespace device
}  // namespace samebits
