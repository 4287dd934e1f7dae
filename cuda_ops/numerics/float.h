// The primitives on single values: everything on the numeric path is built from these.
//
// They are the IEEE-754 binary32 operations + - * / sqrt fma, round to nearest even, subnormals
// kept, and integer operations. Each function of the headers beside this one is a fixed expression over
// them, so every compiler, instruction set and GPU gives the same bits. No libm: its results depend on
// its version and on the CPU. The specification, with the same names, is docs/numerics.md.
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

// x between low and high; NaN stays. On a CPU both comparisons ask x itself: two selections, which vectorise, and no
// branch. On a GPU that would be one instruction more.
SAMEBITS_HD float clamp_(float x, float low, float high) {
  const bool below = x < low;
#if defined(__CUDA_ARCH__)
  x = below ? low : x;
  return x > high ? high : x;
#else
  const bool above = x > high;
  x = below ? low : x;
  return above ? high : x;
#endif
}

// Scanning maximum: keeps the first of equal values. Which zero that is depends on the scan; x - max does not.
SAMEBITS_HD float max_(float m, float x) { return x > m ? x : m; }

}  // namespace SAMEBITS_ISA
}  // namespace samebits
