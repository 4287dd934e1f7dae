// Cutting rows and columns of a matrix into digits, as operands of digits.h.
//
// order: no sum that rounds; the exponent of a block is that of its largest magnitude.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "digits.h"
#include "lanes.h"

namespace samebits {
namespace SAMEBITS_ISA {

// 16 values side by side, in as many registers as it takes.
typedef float Floats16 __attribute__((vector_size(64)));
typedef int32_t Ints16 __attribute__((vector_size(64)));

// digit() of numerics/digits.h for each; by reference, since not every CPU passes such vectors in registers.
template <class Ints, class Floats>
static inline __attribute__((always_inline)) void digit_of(Ints& out, const Floats& y) {
  const Ints n = (Ints)(y + kRounder) - 0x4b400000;
  const Ints above = n < -127 ? Ints{} - 127 : n;
  out = above > 127 ? Ints{} + 127 : above;
}

// Both digits; low stays as it is where there is one.
template <int kDigits, class Ints, class Floats>
static inline __attribute__((always_inline)) void digits_of(Ints& high, Ints& low, const Floats& y) {
  digit_of(high, y);
  if (kDigits == 2) digit_of(low, (y - __builtin_convertvector(high, Floats)) * 256.0f);
}

template <class Ints, class Floats>
static inline __attribute__((always_inline)) void keep_largest(Ints& largest, const Floats& x) {
  const Ints m = (Ints)x & 0x7fffffff;
  largest = m > largest ? m : largest;
}

// x[0 .. n - 1], or as many as there is room for; the rest are 0.
template <class Floats>
static inline __attribute__((always_inline)) void load(Floats& out, const float* x, int64_t n) {
  constexpr int kCount = sizeof(Floats) / sizeof(float);
#if defined(__AVX512F__)
  static_assert(kCount == kLanes);
  out = (Floats)_mm512_maskz_loadu_ps(n >= kCount ? 0xffff : (1u << n) - 1, x);
#else
  if (n >= kCount) {
    memcpy(&out, x, sizeof(out));
    return;
  }
#if defined(__AVX2__) && defined(__FMA__)
  if constexpr (kCount == kLanes) {
    const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    out = (Floats)_mm256_maskload_ps(x, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), number));
    return;
  }
#endif
  out = Floats{};
  for (int i = 0; i < n; i++) out[i] = x[i];
#endif
}

// Digits as bytes.
static inline __attribute__((always_inline)) void store(int8_t* out, const LaneInts& digits) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)out, _mm512_cvtepi32_epi8((__m512i)digits));
#elif defined(__AVX2__) && defined(__FMA__)
  const __m256i all = (__m256i)digits;
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  _mm_storel_epi64((__m128i*)out, _mm_packs_epi16(words, words));
#elif defined(__SSE2__)
  const __m128i words = _mm_packs_epi32((__m128i)digits, (__m128i)digits);
  const int four = _mm_cvtsi128_si32(_mm_packs_epi16(words, words));
  memcpy(out, &four, sizeof(four));
#elif defined(__aarch64__)
  const int16x4_t words = vmovn_s32((int32x4_t)digits);
  vst1_lane_s32((int32_t*)out, vreinterpret_s32_s8(vmovn_s16(vcombine_s16(words, words))), 0);
#else
  for (int i = 0; i < kLanes; i++) out[i] = (int8_t)digits[i];
#endif
}

static inline int exponent_of(const LaneInts& largest) {
#if defined(__AVX512F__)
  return digit_exponent((uint32_t)_mm512_reduce_max_epi32((__m512i)largest));
#else
  int32_t most = 0;
  for (int i = 0; i < kLanes; i++) most = largest[i] > most ? largest[i] : most;
  return digit_exponent((uint32_t)most);
#endif
}

static inline int32_t sum_of(const LaneInts& x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)x);
#else
  int32_t sum = 0;
  for (int i = 0; i < kLanes; i++) sum += x[i];
  return sum;
#endif
}

// words[step][16] from digits[16][128], four of a row side by side.
static inline void interleave(uint8_t* out, const int8_t (*digits)[kDigitBlock], int steps, uint32_t flip) {
#if defined(__AVX512F__)
  for (int step = 0; step < steps; step += kPanel) {  // 16 x 16 words at a time
    __m512i row[kPanel], pair[kPanel];
#pragma GCC unroll 16
    for (int i = 0; i < kPanel; i++) row[i] = _mm512_load_si512(digits[i] + 4 * step);
#pragma GCC unroll 8
    for (int i = 0; i < kPanel; i += 2) {
      pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
      pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPanel; i += 4) {
      row[i] = _mm512_unpacklo_epi64(pair[i], pair[i + 2]);
      row[i + 1] = _mm512_unpackhi_epi64(pair[i], pair[i + 2]);
      row[i + 2] = _mm512_unpacklo_epi64(pair[i + 1], pair[i + 3]);
      row[i + 3] = _mm512_unpackhi_epi64(pair[i + 1], pair[i + 3]);
    }
    const __m512i flips = _mm512_set1_epi32((int)flip);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      const __m512i p = _mm512_shuffle_i32x4(row[c], row[4 + c], 0x88);
      const __m512i q = _mm512_shuffle_i32x4(row[c], row[4 + c], 0xdd);
      const __m512i r = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0x88);
      const __m512i s = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0xdd);
      const __m512i column[4] = {_mm512_shuffle_i32x4(p, r, 0x88), _mm512_shuffle_i32x4(q, s, 0x88),
                                 _mm512_shuffle_i32x4(p, r, 0xdd), _mm512_shuffle_i32x4(q, s, 0xdd)};
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const int at = step + c + 4 * i;
        if (at < steps) _mm512_storeu_si512(out + at * 4 * kPanel, _mm512_xor_si512(flips, column[i]));
      }
    }
  }
#else
  for (int step = 0; step < steps; step++) {
    for (int r = 0; r < kPanel; r++) {
      uint32_t word;
      memcpy(&word, digits[r] + 4 * step, 4);
      word ^= flip;
      memcpy(out + (step * kPanel + r) * 4, &word, 4);
    }
  }
#endif
}

static inline int row_exponent(const float* x, int64_t length) {
  LaneInts largest = {};
  for (int64_t k = 0; k < length; k += kLanes) {
    Lanes some;
    load(some, x + k, length - k);
    keep_largest(largest, some);
  }
  return exponent_of(largest);
}

// The digits of x[length] under exponent e, and 0 after them up to `end`, in whole registers; of a left operand -128
// times their sums, see dot.h.
template <int kDigits, bool kLeft>
static inline void cut_row(int8_t* high, int8_t* low, int32_t* sums, const float* x, int64_t length, int64_t end,
                           int e) {
  const float factor = digit_factor(e);
  if (factor == 0.0f) length = 0;
  LaneInts sum = {}, low_sum = {};
  int64_t k = 0;
  for (; k < length; k += kLanes) {
    Lanes some;
    LaneInts h, l = {};
    load(some, x + k, length - k);
    digits_of<kDigits>(h, l, some * factor);
    sum += h;
    low_sum += l;
    store(high + k, h);
    if (kDigits == 2) store(low + k, l);
  }
  for (; k < end; k += kLanes) {
    memset(high + k, 0, kLanes);
    if (kDigits == 2) memset(low + k, 0, kLanes);
  }
  if (kLeft) sums[0] = -128 * sum_of(sum);
  if (kLeft && kDigits == 2) sums[kPanel] = -128 * sum_of(sum + low_sum);
}

// Row r of a block of a left operand, cut along the row.
template <int kDigits>
static inline void cut_left_row(const Operand<kDigits>& out, int64_t p, int64_t b, int r, const float* x,
                                int64_t length, int64_t end, int e) {
  int8_t* high = (int8_t*)out.at(p, b) + r * kDigitBlock;
  cut_row<kDigits, true>(high, high + kBlockBytes, out.sum(p, b) + r, x, length, end, e);
  out.scale(p, b)[r] = digit_scale<kDigits>(e);
}

// One block of a panel from `rows` rows of x that are read along their length. exponents[rows], or null: of this block.
template <int kDigits, bool kLeft>
static inline void cut_rows(const Operand<kDigits>& out, int64_t p, int64_t b, const float* x, int64_t stride,
                            int64_t rows, int64_t length, const int* exponents) {
  if (kLeft) {
    for (int r = 0; r < kPanel; r++) {
      const float* row = x + (r < rows ? r : 0) * stride;
      const int64_t n = r < rows ? length : 0;  // rows beyond are zeros, under any scale
      cut_left_row<kDigits>(out, p, b, r, row, n, length, n == 0 ? 0 : exponents ? exponents[r] : row_exponent(row, n));
    }
    return;
  }
  const int steps = (int)(length + 3) / 4;
  const int64_t whole = (steps + kPanel - 1) / kPanel * kPanel * 4;  // what interleave reads
  alignas(64) int8_t high[kPanel][kDigitBlock], low[kPanel][kDigitBlock];
  for (int r = 0; r < kPanel; r++) {
    const float* row = x + (r < rows ? r : 0) * stride;
    const int e = r >= rows ? 0 : exponents ? exponents[r] : row_exponent(row, length);
    cut_row<kDigits, false>(high[r], low[r], nullptr, row, r < rows ? length : 0, whole, e);
    out.scale(p, b)[r] = r < rows ? digit_scale<kDigits>(e) : 0.0f;
  }
  interleave(out.at(p, b), high, steps, 0x80808080u);
  if (kDigits == 2) interleave(out.at(p, b) + kBlockBytes, low, steps, 0x80808080u);
}

// One block of a panel from `columns` columns of x, read from line to line; each line first times its fold (null: as it
// is). Column j is read from line diagonal + j on, and words before that of line diagonal are left as they are.
// exponents[16], or null: of this block.
template <int kDigits, bool kLeft>
static inline void cut_columns(const Operand<kDigits>& out, int64_t p, int64_t b, const float* x, int64_t stride,
                               int64_t columns, int64_t length, const float* fold, const int* exponents,
                               int diagonal = -kPanel) {
  constexpr int32_t kFlip = kLeft ? 0 : (int32_t)0x80808080u;
  const int steps = (int)(length + 3) / 4, from = diagonal > 0 ? diagonal / 4 : 0;
  alignas(64) float lines[kDigitBlock][kPanel];
  Ints16 largest = {}, column;
  for (int j = 0; j < kPanel; j++) column[j] = j;
  for (int k = 4 * from; k < (int)length; k++) {
    Floats16 line;
    load(line, x + k * stride, columns);
    if (fold) line = fold[k] == 0.0f ? Floats16{} : line * fold[k];
    if (k - diagonal < kPanel - 1) line = column > k - diagonal ? Floats16{} : line;
    memcpy(lines[k], &line, sizeof(line));
    keep_largest(largest, line);
  }
  for (int k = (int)length; k < 4 * steps; k++) memset(lines[k], 0, sizeof(lines[k]));
  alignas(64) float factors[kPanel];
  for (int j = 0; j < kPanel; j++) {
    const int e = exponents ? exponents[j] : digit_exponent((uint32_t)largest[j]);
    factors[j] = digit_factor(e);
    if (out.scale_block) out.scale(p, b)[j] = j < columns ? digit_scale<kDigits>(e) : 0.0f;
  }
  Floats16 factor;
  memcpy(&factor, factors, sizeof(factor));
  uint8_t* words = out.at(p, b) + from * sizeof(Ints16);
  Ints16 sum = {}, low_sum = {};
  for (int step = from; step < steps; step++, words += sizeof(Ints16)) {
    Ints16 high = {}, low = {};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      Floats16 y;
      memcpy(&y, lines[4 * step + i], sizeof(y));
      y = factor == 0.0f ? Floats16{} : y * factor;
      Ints16 h, l = {};
      digits_of<kDigits>(h, l, y);
      high |= (h & 255) << (8 * i);
      low |= (l & 255) << (8 * i);
      sum += h;
      low_sum += l;
    }
    high ^= kFlip;
    low ^= kFlip;
    memcpy(words, &high, sizeof(high));
    if (kDigits == 2) memcpy(words + kBlockBytes, &low, sizeof(low));
  }
  if (!kLeft) return;
  for (int j = 0; j < kPanel; j++) {
    out.sum(p, b)[j] = -128 * sum[j];
    if (kDigits == 2) out.sum(p, b)[kPanel + j] = -128 * (sum[j] + low_sum[j]);
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
