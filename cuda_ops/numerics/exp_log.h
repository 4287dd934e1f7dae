// The exponential and the logarithm: fixed polynomials over the primitives.
#pragma once

#include "float.h"

namespace samebits {
namespace SAMEBITS_ISA {

// exp(x): n = nearest integer to x / ln 2, r = x - n ln 2 in two pieces, degree-6 polynomial, times 2^n
// in two exact steps. +Inf above 88.73, subnormals then 0 below -87.3, NaN for NaN.
SAMEBITS_HD float exp_(float x) {
  x = clamp_(x, -104.0f, 89.0f);
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = fma_(x, 0x1.715476p0f, magic);
  const float n = sub(shifted, magic);
  float r = fma_(n, -0x1.62e400p-1f, x);
  r = fma_(n, -0x1.7f7d1cp-20f, r);
  float p = 0x1.a0d2cep-13f;
  p = fma_(p, r, 0x1.6e879cp-10f);
  p = fma_(p, r, 0x1.111210p-7f);
  p = fma_(p, r, 0x1.555382p-5f);
  p = fma_(p, r, 0x1.555554p-3f);
  p = fma_(p, r, 0x1.000000p-1f);
  p = fma_(p, mul(r, r), r);
  p = add(p, 1.0f);
  const int32_t k = (int32_t)(to_bits(shifted) - to_bits(magic));
  const int32_t half = k >> 1;
  const float scale1 = from_bits((uint32_t)(half + 127) << 23);
  const float scale2 = from_bits((uint32_t)(k - half + 127) << 23);
  return mul(mul(p, scale1), scale2);
}

// log(x) for x > 0, subnormals included: x = m 2^e with m in [sqrt(1/2), sqrt(2)), polynomial in m - 1.
// -Inf for 0, NaN below 0, +Inf for +Inf.
SAMEBITS_HD float log_(float x) {
  const bool tiny = x < 0x1p-126f;
  const float scaled = tiny ? mul(x, 0x1p23f) : x;
  const uint32_t shifted = to_bits(scaled) - 0x3f3504f3u;
  const float e = (float)(((int32_t)shifted >> 23) - (tiny ? 23 : 0));
  const float f = sub(from_bits((shifted & 0x007fffffu) + 0x3f3504f3u), 1.0f);
  const float z = mul(f, f);
  float p = 0x1.204376p-4f;
  p = fma_(p, f, -0x1.d7a370p-4f);
  p = fma_(p, f, 0x1.de4a34p-4f);
  p = fma_(p, f, -0x1.fcba9ep-4f);
  p = fma_(p, f, 0x1.23d37ep-3f);
  p = fma_(p, f, -0x1.555ca0p-3f);
  p = fma_(p, f, 0x1.999d58p-3f);
  p = fma_(p, f, -0x1.fffff8p-3f);
  p = fma_(p, f, 0x1.555554p-2f);
  p = mul(mul(p, f), z);
  p = fma_(e, -0x1.bd0106p-13f, p);
  p = fma_(z, -0.5f, p);
  const float result = fma_(e, 0x1.630000p-1f, add(f, p));
  if (x == 0.0f) return from_bits(0xff800000u);
  if (!(x > 0.0f)) return from_bits(0x7fc00000u);
  return x > 0x1.fffffep127f ? x : result;
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
