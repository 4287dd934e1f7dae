// Cutting rows and columns of a matrix into digits, as operands of digits.h.
//
// order: no sum that rounds; the exponent of a block is that of its largest magnitude.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "digit_bytes.h"
#include "digits.h"
#include "lanes.h"
#include "prefetch.h"

namespace samebits {
namespace SAMEBITS_ISA {

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

static inline int row_exponent(const float* x, int64_t length) {
  LaneInts largest = {};
  const auto look = [&](int64_t n) __attribute__((always_inline)) {
    for (int64_t k = 0; k < n; k += kLanes) {
      Lanes some;
      load(some, x + k, n - k);
      keep_largest(largest, some);
    }
  };
  length == kDigitBlock ? look(kDigitBlock) : look(length);
  return exponent_of(largest);
}

// The digits of x[length] under exponent e, and 0 after them up to `end`, in fours of registers; of a left operand -128
// times their sums, see dot.h.
template <int kDigits, bool kLeft>
static inline void cut_row(int8_t* high, int8_t* low, int32_t* sums, const float* x, int64_t length, int64_t end,
                           int e) {
  constexpr int kFour = 4 * kLanes;
  static_assert(kDigitBlock % kFour == 0);
  const float factor = digit_factor(e);
  if (factor == 0.0f) length = 0;
  LaneInts sum = {}, low_sum = {};
  const auto cut = [&](int64_t n) __attribute__((always_inline)) {
    for (int64_t k = 0; k < n; k += kFour) {
      LaneInts h[4] = {}, l[4] = {};
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const int64_t rest = n - k - i * kLanes;
        if (rest <= 0) break;
        Lanes some;
        load(some, x + k + i * kLanes, rest);
        digits_of<kDigits>(h[i], l[i], some * factor);
      }
      store_row<kLeft>(high + k, h, sum);
      if (kDigits == 2) store_row<kLeft>(low + k, l, low_sum);
    }
  };
  length == kDigitBlock ? cut(kDigitBlock) : cut(length);  // whole blocks without a mask
  for (int64_t k = (length + kFour - 1) / kFour * kFour; k < end; k += kFour) {
    memset(high + k, 0, kFour);
    if (kDigits == 2) memset(low + k, 0, kFour);
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
  interleave(out.at(p, b), high, steps, kFlip);
  if (kDigits == 2) interleave(out.at(p, b) + kBlockBytes, low, steps, kFlip);
}

// One block of a panel from `columns` columns of x, read from line to line; each line first times its fold (null: as it
// is). Column j is read from line diagonal + j on, and words before that of line diagonal are left as they are.
// exponents[16], or null: of this block.
template <int kDigits, bool kLeft>
static inline void cut_columns(const Operand<kDigits>& out, int64_t p, int64_t b, const float* x, int64_t stride,
                               int64_t columns, int64_t length, const float* fold, const int* exponents,
                               int diagonal = -kPanel) {
  constexpr int32_t flip = kLeft ? 0 : kFlip;
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
    Ints16 high[4], low[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      Floats16 y;
      memcpy(&y, lines[4 * step + i], sizeof(y));
      y = factor == 0.0f ? Floats16{} : y * factor;
      digits_of<kDigits>(high[i], low[i], y);
    }
    store_words<kLeft>(words, high, sum, flip);
    if (kDigits == 2) store_words<kLeft>(words + kBlockBytes, low, low_sum, flip);
  }
  if (!kLeft) return;
  for (int j = 0; j < kPanel; j++) {
    out.sum(p, b)[j] = -128 * sum[j];
    if (kDigits == 2) out.sum(p, b)[kPanel + j] = -128 * (sum[j] + low_sum[j]);
  }
}

// Element (row, k) lies at x[row * K + k], or transposed at x[k * rows + row].
struct Matrix {
  const float* x;
  int64_t rows;
  bool transposed;
  int64_t K;
};

// Panels begin .. end - 1 of `out`, whose first row is row `row` of m, over blocks first .. first + count - 1.
template <int kDigits, bool kLeft>
static inline void cut_panels(const Operand<kDigits>& out, int64_t begin, int64_t end, const Matrix& m, int64_t row,
                              const Blocks& blocks, int64_t first, int64_t count) {
  // What lies side by side in memory is cut one after the other.
  const int64_t panels = end - begin;
  for (int64_t i = 0; i < panels * count; i++) {
    const int64_t p = begin + (m.transposed ? i % panels : i / count), b = m.transposed ? i / panels : i % count;
    const int64_t k = blocks.first(first + b), length = blocks.length(first + b), at = row + p * kPanel;
    const int64_t rows = m.rows - at < kPanel ? m.rows - at : kPanel;
    if (m.transposed) {
      cut_columns<kDigits, kLeft>(out, p, b, m.x + k * m.rows + at, m.rows, rows, length, nullptr, nullptr);
    } else {
      const float* x = m.x + at * m.K + k;
      const int64_t next = m.rows - at - kPanel;
      if (next > 0) prefetch<false>(x + kPanel * m.K, m.K, next < kPanel ? next : kPanel, length);
      cut_rows<kDigits, kLeft>(out, p, b, x, m.K, rows, length, nullptr);
    }
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
