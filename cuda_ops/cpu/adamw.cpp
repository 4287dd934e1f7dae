// One AdamW step over n parameters. Element by element: no sum.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/optimizer.h"

namespace samebits {
namespace SAMEBITS_ISA {

void adamw(float* param, float* m, float* v, const float* grad, int64_t n, float grad_scale, float lr, float beta1,
           float beta2, float eps, float weight_decay, float correction1, float correction2) {
  const AdamWScalars s = adamw_scalars(grad_scale, lr, beta1, beta2, eps, weight_decay, correction1, correction2);
  parallel_for(n, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) adamw_update(param + i, m + i, v + i, grad[i], s);
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
