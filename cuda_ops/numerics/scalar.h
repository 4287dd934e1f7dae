// The arithmetic of single values: everything on the numeric path is built from these.
//
// Primitives are the IEEE-754 binary32 operations + - * / sqrt fma, round to nearest even, subnormals
// kept, and integer operations. Each function below is a fixed expression over them, so every
// compiler, instruction set and GPU gives the same bits. No libm: its results depend on its version
// and on the CPU. The specification, with the same names, is docs/numerics.md.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define SAMEBITS_HD __host__ __device__ __forceinline__
#else
#define SAMEBITS_HD static inline __attribute__((always_inline))
#endif

// Each instruction set has its own copy of everything, so that the linker can never pick a function
// compiled for a newer CPU than the one at hand.
#if !defined(SAMEBITS_ISA)
#if defined(__CUDACC__)
#define SAMEBITS_ISA device
#else
#define SAMEBITS_ISA baseline
#endif
#endif

namespace samebits {
namespace SAMEBITS_ISA {

// ---------------------------------------------------------------- primitives

union FloatBits {
  float value;
  uint32_t bits;
};
union DoubleBits {
  double value;
  uint64_t bits;
};

SAMEBITS_HD uint32_t to_bits(float x) {
  FloatBits u;
  u.value = x;
  return u.bits;
}

SAMEBITS_HD float from_bits(uint32_t x) {
  FloatBits u;
  u.bits = x;
  return u.value;
}

#if defined(__CUDA_ARCH__)
// The _rn intrinsics are never merged into a fused operation and ignore -fmad.
SAMEBITS_HD float add(float a, float b) { return __fadd_rn(a, b); }
SAMEBITS_HD float sub(float a, float b) { return __fsub_rn(a, b); }
SAMEBITS_HD float mul(float a, float b) { return __fmul_rn(a, b); }
SAMEBITS_HD float div(float a, float b) { return __fdiv_rn(a, b); }
SAMEBITS_HD float sqrt_(float a) { return __fsqrt_rn(a); }
SAMEBITS_HD float fma_(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
// Built with -ffp-contract=off, so a plain operator is one rounded operation.
SAMEBITS_HD float add(float a, float b) { return a + b; }
SAMEBITS_HD float sub(float a, float b) { return a - b; }
SAMEBITS_HD float mul(float a, float b) { return a * b; }
SAMEBITS_HD float div(float a, float b) { return a / b; }
SAMEBITS_HD float sqrt_(float a) { return __builtin_sqrtf(a); }
#if defined(__FMA__) || defined(__aarch64__) || defined(__riscv)
SAMEBITS_HD float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
// Exact fma without the instruction. The product of two floats is exact in double; TwoSum gives the
// rounding error of product + c; rounding the double sum to odd keeps the information that the final
// rounding to float needs (Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums").
SAMEBITS_HD float fma_(float a, float b, float c) {
  const double product = (double)a * (double)b;
  const double addend = (double)c;
  DoubleBits sum;
  sum.value = product + addend;
  const double t = sum.value - product;
  const double error = (product - (sum.value - t)) + (addend - t);
  const uint64_t inexact = (uint64_t)((error > 0.0) | (error < 0.0));  // false for NaN
  const uint64_t even = ~sum.bits & 1u;
  const uint64_t away = (uint64_t)((error > 0.0) == (sum.value > 0.0));
  sum.bits += (inexact & even) * (2 * away - 1);
  return (float)sum.value;
}
#endif
#endif

// Scanning maximum: keeps the first of equal values, so that max(-0, +0) is defined.
SAMEBITS_HD float max_(float m, float x) { return x > m ? x : m; }

// ---------------------------------------------------------------- elementary functions

// exp(x): n = nearest integer to x / ln 2, r = x - n ln 2 in two pieces, degree-6 polynomial, times 2^n
// in two exact steps. +Inf above 88.73, subnormals then 0 below -87.3, NaN for NaN.
SAMEBITS_HD float exp_(float x) {
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
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

// cos(2 pi u) and sin(2 pi u) for u in [0, 1): the nearest quarter turn is taken off exactly, the rest is
// a polynomial on [-pi/4, pi/4].
SAMEBITS_HD void cos_sin_turn(float u, float* cosine, float* sine) {
  const int32_t quarter = (int32_t)add(mul(u, 4.0f), 0.5f);
  const float t = mul(fma_((float)quarter, -0.25f, u), 0x1.921fb6p+2f);
  const float z = mul(t, t);
  float s = -0x1.9943f2p-13f;
  s = fma_(s, z, 0x1.11073cp-7f);
  s = fma_(s, z, -0x1.555546p-3f);
  s = fma_(mul(s, z), t, t);
  float c = 0x1.99eb9cp-16f;
  c = fma_(c, z, -0x1.6c0c34p-10f);
  c = fma_(c, z, 0x1.55554ap-5f);
  c = fma_(mul(c, z), z, fma_(z, -0.5f, 1.0f));
  const bool swap = quarter & 1;
  const float x = swap ? s : c;
  const float y = swap ? c : s;
  *cosine = ((quarter + 1) & 2) ? -x : x;
  *sine = (quarter & 2) ? -y : y;
}

// ---------------------------------------------------------------- activations

// exp(-2 sqrt(2/pi) (x + 0.044715 x^3)), the one transcendental of GELU's tanh form and its derivative. Beyond
// |x| = 16 both have reached their limits, so x is held there and nothing overflows to NaN.
SAMEBITS_HD float gelu_exp(float x) {
  float held = x < -16.0f ? -16.0f : x;
  held = held > 16.0f ? 16.0f : held;
  const float inner = fma_(-0x1.2444f2p-4f, mul(held, held), -0x1.988454p+0f);
  return exp_(mul(held, inner));
}

// GELU, tanh form (Hendrycks and Gimpel 2016, section 2): 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), which
// has no cancellation.
SAMEBITS_HD float gelu(float x) { return div(x, add(1.0f, gelu_exp(x))); }

// d gelu / dx = s + x s (1 - s) 2 u'(x), s = sigmoid(2u)
SAMEBITS_HD float gelu_derivative(float x) {
  const float s = div(1.0f, add(1.0f, gelu_exp(x)));
  float held = x < -16.0f ? -16.0f : x;
  held = held > 16.0f ? 16.0f : held;
  const float slope = fma_(0x1.b6676cp-3f, mul(held, held), 0x1.988454p+0f);
  return fma_(mul(mul(held, s), sub(1.0f, s)), slope, s);
}

// ---------------------------------------------------------------- numbered, for the `unary` kernel

enum Function { kExp = 0, kLog = 1, kSqrt = 2, kGelu = 3, kGeluDerivative = 4, kCosTurn = 5, kSinTurn = 6 };

SAMEBITS_HD float unary_function(int function, float x) {
  float c, s;
  switch (function) {
    case kExp:
      return exp_(x);
    case kLog:
      return log_(x);
    case kSqrt:
      return sqrt_(x);
    case kGelu:
      return gelu(x);
    case kGeluDerivative:
      return gelu_derivative(x);
    case kCosTurn:
      cos_sin_turn(x, &c, &s);
      return c;
    default:
      cos_sin_turn(x, &c, &s);
      return s;
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
