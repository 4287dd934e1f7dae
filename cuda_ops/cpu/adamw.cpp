// One AdamW step over n parameters. Element by element: no sum.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/adamw.h"

namespace samebits {
namespace SAMEBITS_ISA {

void adamw(float* param, float* m, float* v, const float* grad, const float* factor, const float* scalars, int64_t n,
           float beta1, float beta2, float eps, float weight_decay) {
  FloatEnvironment environment;
  if (*factor != *factor) return;
  const AdamWScalars s = adamw_scalars(*factor, scalars[0], beta1, beta2, eps, weight_decay, scalars[1], scalars[2]);
  parallel_for(n, 6, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) adamw_update(param + i, m + i, v + i, grad[i], s);
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
