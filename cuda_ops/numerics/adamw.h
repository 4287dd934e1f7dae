// AdamW (Loshchilov and Hutter 2019, algorithm 2), one parameter.
#pragma once

#include "float.h"

namespace samebits {
namespace SAMEBITS_ISA {

struct AdamWScalars {
  float grad_scale, lr, beta1, beta2, eps, weight_decay;
  float one_minus_beta1, one_minus_beta2;  // fp32 differences
  float inverse1, inverse2;                // fp32 quotients 1 / (1 - beta^t)
};

SAMEBITS_HD AdamWScalars adamw_scalars(float grad_scale, float lr, float beta1, float beta2, float eps,
                                       float weight_decay, float correction1, float correction2) {
  AdamWScalars s;
  s.grad_scale = grad_scale;
  s.lr = lr;
  s.beta1 = beta1;
  s.beta2 = beta2;
  s.eps = eps;
  s.weight_decay = weight_decay;
  s.one_minus_beta1 = sub(1.0f, beta1);
  s.one_minus_beta2 = sub(1.0f, beta2);
  s.inverse1 = div(1.0f, correction1);
  s.inverse2 = div(1.0f, correction2);
  return s;
}

// g = grad * grad_scale
// m = fma(beta1, m, (1 - beta1) g)          v = fma(beta2, v, ((1 - beta2) g) g)
// update = (m inverse1) / (sqrt(v inverse2) + eps)
// param = fma(-lr, fma(weight_decay, param, update), param)
SAMEBITS_HD void adamw_update(float* param, float* m, float* v, float grad, const AdamWScalars& s) {
  const float g = mul(grad, s.grad_scale);
  const float first = fma_(s.beta1, *m, mul(s.one_minus_beta1, g));
  const float second = fma_(s.beta2, *v, mul(mul(s.one_minus_beta2, g), g));
  const float scale = add(sqrt_(mul(second, s.inverse2)), s.eps);
  const float update = div(mul(first, s.inverse1), scale);
  *m = first;
  *v = second;
  *param = fma_(-s.lr, fma_(s.weight_decay, *param, update), *param);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
