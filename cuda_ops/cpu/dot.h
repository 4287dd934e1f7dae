// Dot products of four digits, sum[lane] += r[lane][0..3] . l[0..3], for as many columns as a register has lanes.
//
// Right digits are stored with 128 added, which the x86 instruction wants; the caller starts a sum at -128 (sum of left
// digits), or, where the digits are read as they are, at 0. Sums are exact: which of these runs cannot change a bit.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../numerics/digits.h"
#include "lanes.h"

namespace samebits {
// Whether the CPU has the dot product instruction of the instruction set that was chosen; SAMEBITS_DOT=plain says no.
bool has_dot_product();

namespace SAMEBITS_ISA {

SAMEBITS_HD int32_t four_digits(const int8_t* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return x;
}

// A tile: kRows rows times kPanels panels of 16 columns; [0] with one digit, [1] with two.
#if defined(__AVX512F__)
struct Dot512 {  // AVX-512 VNNI
  typedef __m512i Ints;
  typedef __m512 Floats;
  static constexpr int kLanes = 16, kRows[2] = {8, 4}, kPanels[2] = {3, 3};
  static constexpr bool kBiased = true;
  SAMEBITS_HD Ints right(const uint8_t* p) { return _mm512_loadu_si512(p); }
  SAMEBITS_HD Ints left(const int8_t* p) { return _mm512_set1_epi32(four_digits(p)); }
  SAMEBITS_HD Ints start(int32_t x) { return _mm512_set1_epi32(x); }
  // One line of assembly keeps the sums in registers where intrinsics make g++ spill them.
  SAMEBITS_HD void dot(Ints& sum, Ints r, Ints l) { __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(r), "v"(l)); }
  SAMEBITS_HD Floats to_float(Ints x) { return __builtin_convertvector((LaneInts)x, __m512); }
  SAMEBITS_HD Floats all(float x) { return _mm512_set1_ps(x); }
  SAMEBITS_HD Floats load(const float* p) { return _mm512_loadu_ps(p); }
  SAMEBITS_HD void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
  SAMEBITS_HD Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  SAMEBITS_HD Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
};
#endif
#if defined(__AVX2__) && defined(__FMA__)
struct Dot256 {  // AVX2. Products of |r| <= 127 and |l| <= 127 in pairs stay below 2^15: vpmaddubsw does not saturate.
  typedef __m256i Ints;
  typedef __m256 Floats;
  static constexpr int kLanes = 8, kRows[2] = {4, 2}, kPanels[2] = {1, 1};
  static constexpr bool kBiased = false;
  SAMEBITS_HD Ints right(const uint8_t* p) {
    return _mm256_xor_si256(_mm256_loadu_si256((const __m256i*)p), _mm256_set1_epi8((char)0x80));
  }
  SAMEBITS_HD Ints left(const int8_t* p) { return _mm256_set1_epi32(four_digits(p)); }
  SAMEBITS_HD Ints start(int32_t x) { return _mm256_set1_epi32(x); }
  SAMEBITS_HD void dot(Ints& sum, Ints r, Ints l) {
    const Ints pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(l), _mm256_sign_epi8(r, l));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  SAMEBITS_HD Floats to_float(Ints x) { return _mm256_cvtepi32_ps(x); }
  SAMEBITS_HD Floats all(float x) { return _mm256_set1_ps(x); }
  SAMEBITS_HD Floats load(const float* p) { return _mm256_loadu_ps(p); }
  SAMEBITS_HD void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
  SAMEBITS_HD Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  SAMEBITS_HD Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
};
#if !defined(__AVX512F__)
struct DotVex : Dot256 {  // AVX-VNNI
  static constexpr bool kBiased = true;
  SAMEBITS_HD Ints right(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
  SAMEBITS_HD void dot(Ints& sum, Ints r, Ints l) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(r), "x"(l));
  }
};
#endif
#elif defined(__aarch64__)
struct Dot128 {  // NEON. Pairs of products stay below 2^15.
  typedef int32x4_t Ints;
  typedef float32x4_t Floats;
  static constexpr int kLanes = 4, kRows[2] = {4, 2}, kPanels[2] = {1, 1};
  static constexpr bool kBiased = false;
  SAMEBITS_HD Ints right(const uint8_t* p) { return vreinterpretq_s32_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(0x80))); }
  SAMEBITS_HD Ints left(const int8_t* p) { return vdupq_n_s32(four_digits(p)); }
  SAMEBITS_HD Ints start(int32_t x) { return vdupq_n_s32(x); }
  SAMEBITS_HD void dot(Ints& sum, Ints r, Ints l) {
    const int8x16_t a = vreinterpretq_s8_s32(r), b = vreinterpretq_s8_s32(l);
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    sum = vpadalq_s16(sum, vpaddq_s16(low, high));
  }
  SAMEBITS_HD Floats to_float(Ints x) { return vcvtq_f32_s32(x); }
  SAMEBITS_HD Floats all(float x) { return vdupq_n_f32(x); }
  SAMEBITS_HD Floats load(const float* p) { return vld1q_f32(p); }
  SAMEBITS_HD void store(float* p, Floats x) { vst1q_f32(p, x); }
  SAMEBITS_HD Floats times(Floats a, Floats b) { return vmulq_f32(a, b); }
  SAMEBITS_HD Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
};
struct DotSigned : Dot128 {  // the dot product extension of Armv8.2
  SAMEBITS_HD void dot(Ints& sum, Ints r, Ints l) {
    __asm__(".arch armv8.2-a+dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(r), "w"(l));
  }
};
#else
struct DotPlain {  // plain C: what the others must equal
  struct Ints {
    int32_t x[16];
  };
  struct Floats {
    float x[16];
  };
  static constexpr int kLanes = 16, kRows[2] = {1, 1}, kPanels[2] = {1, 1};
  static constexpr bool kBiased = false;
  SAMEBITS_HD Ints right(const uint8_t* p) {
    Ints v;
    for (int i = 0; i < 16; i++) v.x[i] = four_digits((const int8_t*)p + 4 * i) ^ (int32_t)0x80808080u;
    return v;
  }
  SAMEBITS_HD Ints left(const int8_t* p) { return start(four_digits(p)); }
  SAMEBITS_HD Ints start(int32_t x) {
    Ints v;
    for (int i = 0; i < 16; i++) v.x[i] = x;
    return v;
  }
  SAMEBITS_HD void dot(Ints& sum, const Ints& r, const Ints& l) {
    for (int k = 0; k < 32; k += 8) {
      for (int i = 0; i < 16; i++) sum.x[i] += (int8_t)(r.x[i] >> k) * (int8_t)(l.x[i] >> k);
    }
  }
  SAMEBITS_HD Floats to_float(const Ints& a) {
    Floats v;
    for (int i = 0; i < 16; i++) v.x[i] = (float)a.x[i];
    return v;
  }
  SAMEBITS_HD Floats all(float x) {
    Floats v;
    for (int i = 0; i < 16; i++) v.x[i] = x;
    return v;
  }
  SAMEBITS_HD Floats load(const float* p) {
    Floats v;
    memcpy(v.x, p, sizeof(v.x));
    return v;
  }
  SAMEBITS_HD void store(float* p, const Floats& a) { memcpy(p, a.x, sizeof(a.x)); }
  SAMEBITS_HD Floats times(Floats a, const Floats& b) {
    for (int i = 0; i < 16; i++) a.x[i] = mul(a.x[i], b.x[i]);
    return a;
  }
  SAMEBITS_HD Floats fma(const Floats& a, const Floats& b, Floats c) {
    for (int i = 0; i < 16; i++) c.x[i] = fma_(a.x[i], b.x[i], c.x[i]);
    return c;
  }
};
#endif

// f(a dot product of this CPU)
template <class F>
static inline void with_dot_product(F f) {
#if defined(__AVX512F__)
  return has_dot_product() ? f(Dot512()) : f(Dot256());
#elif defined(__AVX2__) && defined(__FMA__)
  return has_dot_product() ? f(DotVex()) : f(Dot256());
#elif defined(__aarch64__)
  return has_dot_product() ? f(DotSigned()) : f(Dot128());
#else
  return f(DotPlain());
#endif
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
