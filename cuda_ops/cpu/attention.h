// What both passes of attention share: where a head lies, weights, and sums over the keys that a query sees.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../numerics/exp_log.h"
#include "../numerics/float.h"
#include "chains.h"

namespace samebits {
namespace SAMEBITS_ISA {

// Queries that walk the keys together: rows of one register tile.
constexpr int kRows = 8;

struct Head {
  int64_t T, C, size;
  const float *q, *k, *v;  // rows lie 3C apart
  int64_t row;
  float scale;
};

static inline Head head_of(const float* qkv, int64_t unit, int64_t T, int64_t C, int64_t H) {
  const int64_t size = C / H, b = unit / H, h = unit % H;
  const float* base = qkv + b * T * 3 * C + h * size;
  return Head{T, C, size, base, base + C, base + 2 * C, 3 * C, div(1.0f, sqrt_((float)size))};
}

static inline int64_t padded(int64_t n) { return (n + kTileColumns - 1) / kTileColumns * kTileColumns; }

// Scores to weights: s[count] becomes exp(s scale - largest); returns the largest. Whole registers are written, here
// and in weigh_again(): rows are a multiple of kLanes apart, and what lies behind the count is never read.
static inline float weigh(float* s, int64_t count, float scale) {
  // Maxima side by side: they do not round, so their order is free.
  Lanes most = Lanes{} + mul(s[0], scale);
  LaneInts number;
  for (int l = 0; l < kLanes; l++) number[l] = l;
  for (int64_t j = 0; j < count; j += kLanes) {
    Lanes x;
    memcpy(&x, s + j, sizeof(x));
    x *= scale;
    memcpy(s + j, &x, sizeof(x));
    const int32_t rest = count - j < kLanes ? (int32_t)(count - j) : kLanes;
    x = number < rest ? x : most;
    most = x > most ? x : most;
  }
  float largest = most[0];
  for (int l = 1; l < kLanes; l++) largest = max_(largest, most[l]);
  for (int64_t j = 0; j < count; j += kLanes) {
    for (int l = 0; l < kLanes; l++) s[j + l] = exp_(sub(s[j + l], largest));
  }
  return largest;
}

// Of m queries from `first` on: scores s[m][stride] become p, and dp become ds. dout, out [T][size], C apart.
template <int kMost>
static inline void weigh_again(float* s, float* dp, int64_t stride, const float* dout, const float* out, int64_t C,
                               const float* row_max, const float* row_sum, int64_t first, int64_t m, int64_t size,
                               float scale) {
  float delta[kMost];  // chains side by side
  for (int i = 0; i < kMost; i++) delta[i] = 0.0f;
  dout += first * C;
  out += first * C;
  for (int64_t d = 0; d < size; d++) {
    if (m == kMost) {
      for (int i = 0; i < kMost; i++) delta[i] = fma_(dout[i * C + d], out[i * C + d], delta[i]);
    } else {
      for (int64_t i = 0; i < m; i++) delta[i] = fma_(dout[i * C + d], out[i * C + d], delta[i]);
    }
  }
  for (int64_t i = 0; i < m; i++) {
    const float largest = row_max[first + i], inverse = div(1.0f, row_sum[first + i]), subtracted = delta[i];
    float *si = s + i * stride, *di = dp + i * stride;
    for (int64_t j = 0; j <= first + i; j += kLanes) {
      float weight[kLanes], gradient[kLanes];  // s and dp might overlap: g++ would ask before each register
      memcpy(gradient, di + j, sizeof(gradient));
      for (int l = 0; l < kLanes; l++) weight[l] = mul(exp_(sub(mul(si[j + l], scale), largest)), inverse);
      for (int l = 0; l < kLanes; l++) gradient[l] = mul(weight[l], sub(gradient[l], subtracted));
      memcpy(si + j, weight, sizeof(weight));
      memcpy(di + j, gradient, sizeof(gradient));
    }
  }
}

// total[i], i < m, of the weights [m][stride] that queries first + i see: chains side by side, each in key order.
template <int kMost>
static inline void sum_rows(float* total, const float* weights, int64_t stride, int64_t first, int64_t m) {
  for (int i = 0; i < kMost; i++) total[i] = 0.0f;
  if (m == kMost) {
    for (int64_t j = 0; j <= first; j++) {
      for (int i = 0; i < kMost; i++) total[i] = add(total[i], weights[i * stride + j]);
    }
  } else {
    for (int64_t j = 0; j <= first; j++) {
      for (int64_t i = 0; i < m; i++) total[i] = add(total[i], weights[i * stride + j]);
    }
  }
  for (int64_t i = 1; i < m; i++) {
    for (int64_t j = first + 1; j <= first + i; j++) total[i] = add(total[i], weights[i * stride + j]);
  }
}

// The head's keys and values behind the `position` that its cache [capacity][size] holds.
static inline void extend(float* keys, float* values, const Head& head, int64_t position) {
  const size_t bytes = (size_t)head.size * sizeof(float);
  for (int64_t t = 0; t < head.T; t++) {
    memcpy(keys + (position + t) * head.size, head.k + t * head.row, bytes);
    memcpy(values + (position + t) * head.size, head.v + t * head.row, bytes);
  }
}

// c[i][size] += over keys of weights[i][j] rows[j] for queries first + i, i < m: the keys up to `first` for all of
// them, then each query's own last keys. Continues the chains in c.
static inline void sum_over_keys(float* c, int64_t c_row, const float* weights, int64_t weights_row, const float* rows,
                                 int64_t row, int64_t first, int64_t m, int64_t size) {
  chain_block(c, c_row, weights, weights_row, 1, rows, row, m, size, first + 1, false);
  for (int64_t i = 1; i < m; i++) {
    for (int64_t j = first + 1; j <= first + i; j++) {
      const float w = weights[i * weights_row + j];
      for (int64_t d = 0; d < size; d++) c[i * c_row + d] = fma_(w, rows[j * row + d], c[i * c_row + d]);
    }
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
