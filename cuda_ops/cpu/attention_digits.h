// Attention in digits: a head's rows, cut once, as operands along the head's features and along tokens.
//
// The scale of a row of q, k, v or dout is that of its token, over all features of the head: no token sees another.
// Where tokens are summed, the exponent is folded into the other factor (docs/numerics.md).
#pragma once

#include <stdint.h>

#include "attention.h"
#include "cut.h"
#include "digit_tile.h"
#include "scratch.h"

namespace samebits {
namespace SAMEBITS_ISA {

static inline int64_t blocks_of(int64_t n) { return (n + kDigitBlock - 1) / kDigitBlock; }
static inline int64_t whole_panels(int64_t n) { return panels_of(n) * kPanel; }

// Pieces of a scratch buffer, one after another in lines of 64 bytes. A first walk without a buffer counts them.
struct Room {
  uint8_t* base;
  int64_t used = 0;
  explicit Room(uint8_t* base = (uint8_t*)64) : base(base) {}
  void* take(int64_t bytes) {
    void* p = base + used;
    used += (bytes + 63) / 64 * 64;
    return p;
  }
  float* floats(int64_t n) { return (float*)take(n * 4); }
  template <int kDigits>
  Operand<kDigits> operand(int64_t panels, int64_t blocks, bool left) {
    return Operand<kDigits>::in(take(Operand<kDigits>::bytes(panels, blocks, left)), panels, blocks, left);
  }
};

// The tokens of a head's q, k, v or dout: rows x[T][size], `row` apart.
struct Tokens {
  const float* x;
  int64_t row, T, size;
};

// exponents[T] of the tokens.
static inline void token_exponents(int* exponents, const Tokens& t) {
  for (int64_t i = 0; i < t.T; i++) exponents[i] = row_exponent(t.x + i * t.row, t.size);
}

// Panel p of the tokens from `first` on, m of them, as rows along the features.
template <int kDigits, bool kLeft>
static inline void cut_along_features(const Operand<kDigits>& out, int64_t p, const Tokens& t, const int* exponents,
                                      int64_t first, int64_t m) {
  for (int64_t b = 0; b < blocks_of(t.size); b++) {
    const int64_t d = b * kDigitBlock, length = t.size - d < kDigitBlock ? t.size - d : kDigitBlock;
    cut_rows<kDigits, kLeft>(out, p, b, t.x + first * t.row + d, t.row, m, length, exponents + first);
  }
}

template <int kDigits>
static inline void cut_all_along_features(const Operand<kDigits>& out, const Tokens& t, const int* exponents) {
  for (int64_t p = 0; p < panels_of(t.T); p++) {
    const int64_t first = p * kPanel, m = t.T - first < kPanel ? t.T - first : kPanel;
    cut_along_features<kDigits, false>(out, p, t, exponents, first, m);
  }
}

// A right operand whose rows are features and whose K are the tokens, each token under its own exponent. `one`
// [16]: scales of E = 7. factors[T] is written.
template <int kDigits>
static inline void cut_along_tokens(Operand<kDigits>& out, const Tokens& t, const int* exponents, float* factors,
                                    float* one) {
  int folded[kPanel];
  for (int j = 0; j < kPanel; j++) {
    folded[j] = kFoldedExponent;
    one[j] = digit_scale<kDigits>(kFoldedExponent);
  }
  out.scales = one;
  out.scale_panel = out.scale_block = 0;
  for (int64_t i = 0; i < t.T; i++) factors[i] = digit_factor(exponents[i]);
  for (int64_t p = 0; p < panels_of(t.size); p++) {
    const int64_t d = p * kPanel, columns = t.size - d < kPanel ? t.size - d : kPanel;
    for (int64_t b = 0; b < blocks_of(t.T); b++) {
      const int64_t k = b * kDigitBlock, length = t.T - k < kDigitBlock ? t.T - k : kDigitBlock;
      cut_columns<kDigits, false>(out, p, b, t.x + k * t.row + d, t.row, columns, length, factors + k, folded);
    }
  }
}

static inline void token_folds(float* folds, const int* exponents, int64_t T) {
  for (int64_t i = 0; i < T; i++) folds[i] = digit_fold(exponents[i]);
}

// out[16][stride] = m rows of left, cut along them, times panels of right, over n values from the first on.
template <class Dot, int kDigits>
static inline void multiply_rows(float* out, int64_t stride, const Operand<kDigits>& left, int64_t m,
                                 const Operand<kDigits>& right, int64_t panels, int64_t n) {
  constexpr int64_t kSome = 64;  // blocks at a time
  for (int64_t first = 0; first < blocks_of(n); first += kSome) {
    const int64_t last = blocks_of(n) - first < kSome ? blocks_of(n) : first + kSome;
    int steps[kSome];  // of 4, in each block
    for (int64_t b = first; b < last; b++) {
      const int64_t length = n - b * kDigitBlock < kDigitBlock ? n - b * kDigitBlock : kDigitBlock;
      steps[b - first] = (int)(length + 3) / 4;
    }
    digit_panel<Dot, kDigits, kAlongRows>(out, stride, left, 0, m, right, panels, first, last, steps, 0, first > 0);
  }
}

// sums[16][stride] = over the keys of weights[i][j] times the keys' folds, in digits, times `keys`, whose rows are
// features. Row i of m sees the keys up to first + i.
template <class Dot, int kDigits>
static inline void digits_over_keys(float* sums, int64_t stride, const float* weights, int64_t weights_row,
                                    const float* folds, const Operand<kDigits>& left, const Operand<kDigits>& keys,
                                    int64_t panels, int64_t first, int64_t m) {
  const int64_t limit = first + m;
  for (int64_t b = 0; b < blocks_of(limit); b++) {
    const int64_t j = b * kDigitBlock, length = limit - j < kDigitBlock ? limit - j : kDigitBlock;
    for (int r = 0; r < kPanel; r++) {
      const int64_t seen = r < m ? first + r + 1 - j : 0, n = seen < 0 ? 0 : seen < length ? seen : length;
      alignas(64) float folded[kDigitBlock];
      LaneInts largest = {};
      for (int64_t k = 0; k < n; k += kLanes) {
        Lanes w, f;
        load(w, weights + r * weights_row + j + k, n - k);
        load(f, folds + j + k, n - k);
        w *= f;
        memcpy(folded + k, &w, sizeof(w));
        keep_largest(largest, w);
      }
      cut_left_row<kDigits>(left, 0, b, r, folded, n, length, exponent_of(largest));
    }
  }
  multiply_rows<Dot, kDigits>(sums, stride, left, m, keys, panels, limit);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
