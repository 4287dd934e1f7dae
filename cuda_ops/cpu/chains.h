// Register tiles of k-sequential fmaf chains: the inner loop of matrix products and of attention.
//
// Every output is one chain, c = fma(a[k], b[k], c) with k ascending. A tile only decides how many chains run side
// by side, so its shape is free: it is chosen per instruction set and cannot change a bit.
#pragma once

#include <stdint.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../numerics/float.h"
#include "lanes.h"

namespace samebits {
namespace SAMEBITS_ISA {

// Vec: kLanes chains in one register.
#if defined(__AVX512F__)
typedef __m512 Vec;
constexpr int kTileRows = 8;
SAMEBITS_HD Vec vec_load(const float* p) { return _mm512_loadu_ps(p); }
SAMEBITS_HD void vec_store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
SAMEBITS_HD Vec vec_all(float x) { return _mm512_set1_ps(x); }
SAMEBITS_HD Vec vec_fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__) && defined(__FMA__)
typedef __m256 Vec;
constexpr int kTileRows = 6;
SAMEBITS_HD Vec vec_load(const float* p) { return _mm256_loadu_ps(p); }
SAMEBITS_HD void vec_store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
SAMEBITS_HD Vec vec_all(float x) { return _mm256_set1_ps(x); }
SAMEBITS_HD Vec vec_fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(__aarch64__)
typedef float32x4_t Vec;
constexpr int kTileRows = 8;
SAMEBITS_HD Vec vec_load(const float* p) { return vld1q_f32(p); }
SAMEBITS_HD void vec_store(float* p, Vec v) { vst1q_f32(p, v); }
SAMEBITS_HD Vec vec_all(float x) { return vdupq_n_f32(x); }
SAMEBITS_HD Vec vec_fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
#else
struct Vec {
  float x[4];
};
constexpr int kTileRows = 2;
SAMEBITS_HD Vec vec_load(const float* p) { return Vec{{p[0], p[1], p[2], p[3]}}; }
SAMEBITS_HD void vec_store(float* p, Vec v) {
  for (int i = 0; i < 4; i++) p[i] = v.x[i];
}
SAMEBITS_HD Vec vec_all(float x) { return Vec{{x, x, x, x}}; }
SAMEBITS_HD Vec vec_fma(Vec a, Vec b, Vec c) {
  for (int i = 0; i < 4; i++) c.x[i] = fma_(a.x[i], b.x[i], c.x[i]);
  return c;
}
#endif

constexpr int kTileVecs = 2;
constexpr int kTileColumns = kTileVecs * kLanes;

// c[kRows][kVecs * kLanes] (+)= a[kRows][K] b[K][...]; a(i, k) = a[i * a_row + k * a_k], rows of b and c lie b_row and
// c_row apart.
template <int kRows, int kVecs>
static inline __attribute__((always_inline)) void chain_tile(float* c, int64_t c_row, const float* a, int64_t a_row,
                                                             int64_t a_k, const float* b, int64_t b_row, int64_t K,
                                                             bool accumulate) {
  Vec sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; j++) {
      sum[i][j] = accumulate ? vec_load(c + i * c_row + j * kLanes) : vec_all(0.0f);
    }
  }
  for (int64_t k = 0; k < K; k++) {
    Vec column[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; j++) column[j] = vec_load(b + k * b_row + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++) {
      const Vec x = vec_all(a[i * a_row + k * a_k]);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; j++) sum[i][j] = vec_fma(x, column[j], sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; j++) vec_store(c + i * c_row + j * kLanes, sum[i][j]);
  }
}

template <int kRows>
static inline void chain_rows(float* c, int64_t c_row, const float* a, int64_t a_row, int64_t a_k, const float* b,
                              int64_t b_row, int64_t N, int64_t K, bool accumulate) {
  int64_t j = 0;
  for (; j + kTileColumns <= N; j += kTileColumns) {
    chain_tile<kRows, kTileVecs>(c + j, c_row, a, a_row, a_k, b + j, b_row, K, accumulate);
  }
  for (; j + kLanes <= N; j += kLanes) {
    chain_tile<kRows, 1>(c + j, c_row, a, a_row, a_k, b + j, b_row, K, accumulate);
  }
  for (; j < N; j++) {
    for (int i = 0; i < kRows; i++) {
      float sum = accumulate ? c[i * c_row + j] : 0.0f;
      for (int64_t k = 0; k < K; k++) sum = fma_(a[i * a_row + k * a_k], b[k * b_row + j], sum);
      c[i * c_row + j] = sum;
    }
  }
}

// c[M][N] (+)= a[M][K] b[K][N] without packing, for operands that lie in the near caches.
static inline void chain_block(float* c, int64_t c_row, const float* a, int64_t a_row, int64_t a_k, const float* b,
                               int64_t b_row, int64_t M, int64_t N, int64_t K, bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= M; i += kTileRows) {
    chain_rows<kTileRows>(c + i * c_row, c_row, a + i * a_row, a_row, a_k, b, b_row, N, K, accumulate);
  }
  for (; i < M; i++) {
    chain_rows<1>(c + i * c_row, c_row, a + i * a_row, a_row, a_k, b, b_row, N, K, accumulate);
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
