// GELU and its derivative. Another activation takes a header of its own, so that it moves no digest of this one's
// users.
#pragma once

#include "exp_log.h"

namespace samebits {
namespace SAMEBITS_ISA {

// exp(-2 sqrt(2/pi) (x + 0.044715 x^3)), the one transcendental of GELU's tanh form and its derivative. Beyond
// |x| = 16 both have reached their limits, so x is held there and nothing overflows to NaN.
SAMEBITS_HD float gelu_exp(float x) {
  const float held = clamp_(x, -16.0f, 16.0f);
  const float inner = fma_(-0x1.2444f2p-4f, mul(held, held), -0x1.988454p+0f);
  return exp_(mul(held, inner));
}

// GELU, tanh form (Hendrycks and Gimpel 2016, section 2): 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), which
// has no cancellation.
SAMEBITS_HD float gelu(float x) { return div(x, add(1.0f, gelu_exp(x))); }

// d gelu / dx = s + x s (1 - s) 2 u'(x), s = sigmoid(2u)
SAMEBITS_HD float gelu_derivative(float x) {
  const float s = div(1.0f, add(1.0f, gelu_exp(x)));
  const float held = clamp_(x, -16.0f, 16.0f);
  const float slope = fma_(0x1.b6676cp-3f, mul(held, held), 0x1.988454p+0f);
  return fma_(mul(mul(held, s), sub(1.0f, s)), slope, s);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
