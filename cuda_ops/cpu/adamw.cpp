// One AdamW step over n parameters. Element by element: no sum.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/optimizer.h"

namespace samebits {
namespace SAMEBITS_ISA {

void adamw(float* param, float* m, float* v, const float* grad, const float* scalars, int64_t n, float beta1,
           float beta2, float eps, float weight_decay) {
  FloatEnvironment environment;
  if (scalars[0] != scalars[0]) return;
  const AdamWScalars s = adamw_scalars(scalars[0], scalars[1], beta1, beta2, eps, weight_decay, scalars[2], scalars[3]);
  parallel_for(n, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) adamw_update(param + i, m + i, v + i, grad[i], s);
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
