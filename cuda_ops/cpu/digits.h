// Operands of products in digits, and the tile that multiplies them.
//
// An operand is cut along K into blocks and lies in panels of 16 rows: [panel][block][digit][32][16][4], four digits of
// a row side by side. A right operand has scales; a left one sums of its digits as well, see dot.h. A block shorter
// than 128 leaves the rest of its place unused, but for zeros up to a multiple of 4.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../numerics/digits.h"
#include "dot.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kPanel = 16;                         // rows of a panel
constexpr int kBlockBytes = kDigitBlock * kPanel;  // of one block of a panel, for one digit

// Where blocks of K lie: they begin anew with every sequence, and a chain of K values without one is one sequence.
struct Blocks {
  int64_t K, sequence, each;  // each: blocks of a whole sequence
  Blocks(int64_t K, int64_t sequence) : K(K), sequence(sequence < K && sequence > 0 ? sequence : K) {
    each = (this->sequence + kDigitBlock - 1) / kDigitBlock;
  }
  int64_t count() const { return K == 0 ? 0 : K / sequence * each + (K % sequence + kDigitBlock - 1) / kDigitBlock; }
  int64_t first(int64_t b) const { return b / each * sequence + b % each * kDigitBlock; }
  int64_t length(int64_t b) const {
    const int64_t start = first(b), end = (b / each + 1) * sequence < K ? (b / each + 1) * sequence : K;
    return end - start < kDigitBlock ? end - start : kDigitBlock;
  }
};

static inline int64_t panels_of(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

// An operand in memory; of its panel p and block b. Strides of scales may be 0: the same for all.
template <int kDigits>
struct Operand {
  uint8_t* digits;
  float* scales;
  int32_t* sums;  // [digit][16] per block, only of a left operand
  int64_t blocks, scale_panel, scale_block;

  uint8_t* at(int64_t p, int64_t b) const { return digits + (p * blocks + b) * kDigits * kBlockBytes; }
  float* scale(int64_t p, int64_t b) const { return scales + p * scale_panel + b * scale_block; }
  int32_t* sum(int64_t p, int64_t b) const { return sums + (p * blocks + b) * kDigits * kPanel; }

  static int64_t bytes(int64_t panels, int64_t blocks, bool left) {
    return panels * blocks * (kDigits * kBlockBytes + kPanel * 4 * (left ? 1 + kDigits : 1));
  }
  static Operand in(void* memory, int64_t panels, int64_t blocks, bool left) {
    Operand o{(uint8_t*)memory, nullptr, nullptr, blocks, blocks * kPanel, kPanel};
    o.scales = (float*)(o.digits + panels * blocks * kDigits * kBlockBytes);
    if (left) o.sums = (int32_t*)(o.scales + panels * blocks * kPanel);
    return o;
  }
};

// ---------------------------------------------------------------- cutting

// 16 values side by side, in as many registers as it takes.
typedef float Floats16 __attribute__((vector_size(64)));
typedef int32_t Ints16 __attribute__((vector_size(64)));

// digit() of numerics/digits.h for each; by reference, since not every CPU passes such vectors in registers.
static inline __attribute__((always_inline)) void digit16(Ints16& out, const Floats16& y) {
  const Ints16 n = (Ints16)(y + kRounder) - 0x4b400000;
  const Ints16 above = n < -127 ? Ints16{} - 127 : n;
  out = above > 127 ? Ints16{} + 127 : above;
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
  uint32_t largest = 0;
  for (int64_t k = 0; k < length; k++) {
    const uint32_t m = magnitude(x[k]);
    largest = m > largest ? m : largest;
  }
  return digit_exponent(largest);
}

// One block of a panel from `rows` rows of x that are read along their length. exponents[16], or null: of this block.
template <int kDigits, bool kLeft>
static inline void cut_rows(const Operand<kDigits>& out, int64_t p, int64_t b, const float* x, int64_t stride,
                            int64_t rows, int64_t length, const int* exponents) {
  const int steps = (int)(length + 3) / 4;
  alignas(64) int8_t high[kPanel][kDigitBlock], low[kPanel][kDigitBlock];
  for (int r = 0; r < kPanel; r++) {
    int sum = 0, low_sum = 0;
    float scale = 0.0f;
    if (r < rows) {
      const float* row = x + r * stride;
      const int e = exponents ? exponents[r] : row_exponent(row, length);
      const float factor = digit_factor(e);
      scale = digit_scale<kDigits>(e);
      for (int k = 0; k < (int)length; k++) {
        const float y = scaled(row[k], factor);
        const int h = digit(y), l = kDigits == 2 ? low_digit(y, h) : 0;
        high[r][k] = (int8_t)h;
        sum += h;
        if (kDigits == 2) {
          low[r][k] = (int8_t)l;
          low_sum += l;
        }
      }
      const int whole = (steps + kPanel - 1) / kPanel * kPanel * 4;  // what interleave reads
      memset(high[r] + length, 0, (size_t)(whole - length));
      if (kDigits == 2) memset(low[r] + length, 0, (size_t)(whole - length));
    } else {
      memset(high[r], 0, sizeof(high[r]));
      if (kDigits == 2) memset(low[r], 0, sizeof(low[r]));
    }
    out.scale(p, b)[r] = scale;
    if (kLeft) out.sum(p, b)[r] = -128 * sum;
    if (kLeft && kDigits == 2) out.sum(p, b)[kPanel + r] = -128 * (sum + low_sum);
  }
  interleave(out.at(p, b), high, steps, kLeft ? 0 : 0x80808080u);
  if (kDigits == 2) interleave(out.at(p, b) + kBlockBytes, low, steps, kLeft ? 0 : 0x80808080u);
}

// One block of a panel from `columns` columns of x, read from line to line; each line first times its fold (null: as it
// is), and column j only from line seen + j on. exponents[16], or null: of this block.
template <int kDigits, bool kLeft>
static inline void cut_columns(const Operand<kDigits>& out, int64_t p, int64_t b, const float* x, int64_t stride,
                               int64_t columns, int64_t length, const float* fold, const int* exponents,
                               int seen = -kPanel) {
  const int steps = (int)(length + 3) / 4;
  alignas(64) float lines[kDigitBlock][kPanel];
  Ints16 largest = {};
  for (int k = 0; k < (int)length; k++) {
    Floats16 line = {};
    memcpy(&line, x + k * stride, columns == kPanel ? sizeof(line) : (size_t)columns * sizeof(float));
    if (fold) line = fold[k] == 0.0f ? Floats16{} : line * fold[k];
    for (int j = k - seen + 1 < 0 ? 0 : k - seen + 1; j < kPanel; j++) line[j] = 0.0f;
    memcpy(lines[k], &line, sizeof(line));
    const Ints16 m = (Ints16)line & 0x7fffffff;
    largest = m > largest ? m : largest;
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
  uint8_t* words = out.at(p, b);
  Ints16 sum = {}, low_sum = {};
  constexpr int32_t kFlip = kLeft ? 0 : (int32_t)0x80808080u;
  for (int step = 0; step < steps; step++, words += sizeof(Ints16)) {
    Ints16 high = {}, low = {};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      Floats16 y;
      memcpy(&y, lines[4 * step + i], sizeof(y));
      y = factor == 0.0f ? Floats16{} : y * factor;
      Ints16 h;
      digit16(h, y);
      high |= (h & 255) << (8 * i);
      if (kLeft) sum += h;
      if (kDigits == 2) {
        Ints16 l;
        digit16(l, (y - __builtin_convertvector(h, Floats16)) * 256.0f);
        low |= (l & 255) << (8 * i);
        if (kLeft) low_sum += l;
      }
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

// ---------------------------------------------------------------- multiplying

// One tile of out, rows `row` .. of panel p of a, panels q .. of b, over blocks first .. last - 1, whose lengths are
// 4 steps[block - first]; a's digits before step `from` are 0 and left out (one block only).
template <class Dot, int kDigits, int kRows, int kPanels>
static inline __attribute__((always_inline)) void digit_tile(float* out, int64_t stride, const Operand<kDigits>& a,
                                                             int64_t p, int row, const Operand<kDigits>& b, int64_t q,
                                                             int64_t first, int64_t last, const int* steps, int from,
                                                             bool accumulate) {
  constexpr int kVecs = kPanel / Dot::kLanes;
  typename Dot::Floats acc[kRows][kPanels][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 3
    for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) {
        acc[i][j][v] = accumulate ? Dot::load(out + i * stride + j * kPanel + v * Dot::kLanes) : Dot::all(0.0f);
      }
    }
  }
  const int64_t panel_bytes = b.blocks * kDigits * kBlockBytes;
  for (int64_t block = first; block < last; block++) {
    const int8_t* left = (const int8_t*)a.at(p, block) + 4 * row;
    const uint8_t* right = b.at(q, block);
    const int32_t* sums = a.sum(p, block) + row;
    typename Dot::Ints hh[kRows][kPanels][kVecs], cc[kRows][kPanels][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 3
      for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; v++) {
          hh[i][j][v] = Dot::start(Dot::kBiased ? sums[i] : 0);
          if (kDigits == 2) cc[i][j][v] = Dot::start(Dot::kBiased ? sums[kPanel + i] : 0);
        }
      }
    }
    const int count = steps[block - first];
    for (int k = from; k < count; k++) {
      typename Dot::Ints high[kPanels][kVecs], low[kPanels][kVecs];
#pragma GCC unroll 3
      for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; v++) {
          const uint8_t* at = right + j * panel_bytes + k * (4 * kPanel) + v * (4 * Dot::kLanes);
          high[j][v] = Dot::right(at);
          if (kDigits == 2) low[j][v] = Dot::right(at + kBlockBytes);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kRows; i++) {
        const typename Dot::Ints l = Dot::left(left + k * (4 * kPanel) + 4 * i);
        const typename Dot::Ints m = kDigits == 2 ? Dot::left(left + k * (4 * kPanel) + 4 * i + kBlockBytes) : l;
#pragma GCC unroll 3
        for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
          for (int v = 0; v < kVecs; v++) {
            Dot::dot(hh[i][j][v], high[j][v], l);
            if (kDigits == 2) {
              Dot::dot(cc[i][j][v], low[j][v], l);
              Dot::dot(cc[i][j][v], high[j][v], m);
            }
          }
        }
      }
    }
    const float* left_scale = a.scale(p, block) + row;
#pragma GCC unroll 3
    for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) {
        const typename Dot::Floats scale = Dot::load(b.scale(q + j, block) + v * Dot::kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; i++) {  // join() of numerics/digits.h
          typename Dot::Floats t = Dot::to_float(hh[i][j][v]);
          if (kDigits == 2) t = Dot::fma(t, Dot::all(256.0f), Dot::to_float(cc[i][j][v]));
          acc[i][j][v] = Dot::fma(Dot::times(t, Dot::all(left_scale[i])), scale, acc[i][j][v]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 3
    for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) Dot::store(out + i * stride + j * kPanel + v * Dot::kLanes, acc[i][j][v]);
    }
  }
}

// Rows row .. row + kRows - 1 and `panels` panels, as many as a tile has or fewer.
template <class Dot, int kDigits>
static inline void digit_tiles(float* out, int64_t stride, const Operand<kDigits>& a, int64_t p, int row,
                               const Operand<kDigits>& b, int64_t q, int64_t panels, int64_t first, int64_t last,
                               const int* steps, int from, bool accumulate) {
  constexpr int kRows = Dot::kRows[kDigits - 1], kMost = Dot::kPanels[kDigits - 1];
  if (panels == kMost) {
    digit_tile<Dot, kDigits, kRows, kMost>(out, stride, a, p, row, b, q, first, last, steps, from, accumulate);
  } else if (kMost > 2 && panels == 2) {
    digit_tile < Dot, kDigits, kRows,
        kMost<2 ? 1 : 2>(out, stride, a, p, row, b, q, first, last, steps, from, accumulate);
  } else {
    digit_tile<Dot, kDigits, kRows, 1>(out, stride, a, p, row, b, q, first, last, steps, from, accumulate);
  }
}

// m rows of panel p of a times panels 0 .. panels - 1 of b, into a buffer whose rows have room for whole tiles.
template <class Dot, int kDigits>
static inline void digit_panel(float* out, int64_t stride, const Operand<kDigits>& a, int64_t p, int64_t m,
                               const Operand<kDigits>& b, int64_t panels, int64_t first, int64_t last, const int* steps,
                               int from, bool accumulate) {
  constexpr int kRows = Dot::kRows[kDigits - 1], kMost = Dot::kPanels[kDigits - 1];
  for (int64_t q = 0; q < panels; q += kMost) {
    const int64_t some = panels - q < kMost ? panels - q : kMost;
    for (int row = 0; row < (int)m; row += kRows) {
      digit_tiles<Dot, kDigits>(out + row * stride + q * kPanel, stride, a, p, row, b, q, some, first, last, steps,
                                from, accumulate);
    }
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
