// Causal multi-head attention (Vaswani et al. 2017, section 3.2), forward, backward, and against a KV cache.
//
// order: a score is a chain over d, times scale = 1 / sqrt(head size); the exact maximum over the keys of a query comes
// first, then exponentials; their sum and every sum over keys are chains in key order, every sum over queries a
// chain in query order. Keys that a query may not see are skipped, never added as zeros. There is no online
// rescaling, so blocks of queries are free. Threads share out (sequence, head) pairs.
#include <string.h>

#include "chains.h"
#include "kernels.h"
#include "parallel.h"
#include "scratch.h"
#include "transpose.h"

namespace samebits {
namespace SAMEBITS_ISA {

// Queries that walk the keys together: rows of one register tile, and rows of one block of the backward pass.
constexpr int kRows = 8;
constexpr int kBlock = 32;

static thread_local Scratch scratch;

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

static void forward_head(float* out, float* row_max, float* row_sum, const Head& head) {
  const int64_t stride = padded(head.T), size = head.size;
  float* keys = scratch.reserve(size * stride + kRows * stride + kRows * size);
  float* scores = keys + size * stride;
  float* sums = scores + kRows * stride;
  transpose(keys, stride, head.k, head.row, head.T, size);
  for (int64_t first = 0; first < head.T; first += kRows) {
    const int64_t m = head.T - first < kRows ? head.T - first : kRows;
    chain_block(scores, stride, head.q + first * head.row, head.row, 1, keys, stride, m, first + m, size, false);
    for (int64_t i = 0; i < m; i++) {
      float* s = scores + i * stride;
      const int64_t count = first + i + 1;
      const float scale = head.scale;
      float largest = mul(s[0], scale);
      // Maxima side by side: they do not round, so their order is free.
      float lanes[kLanes];
      for (int l = 0; l < kLanes; l++) lanes[l] = largest;
      int64_t j = 0;
      for (; j + kLanes <= count; j += kLanes) {
        for (int l = 0; l < kLanes; l++) {
          s[j + l] = mul(s[j + l], scale);
          lanes[l] = max_(lanes[l], s[j + l]);
        }
      }
      for (; j < count; j++) {
        s[j] = mul(s[j], scale);
        largest = max_(largest, s[j]);
      }
      for (int l = 0; l < kLanes; l++) largest = max_(largest, lanes[l]);
      for (j = 0; j < count; j++) s[j] = exp_(sub(s[j], largest));
      row_max[first + i] = largest;
    }
    // The chains of the rows run side by side, each in key order.
    float total[kRows] = {0};
    if (m == kRows) {
      for (int64_t j = 0; j <= first; j++) {
        for (int i = 0; i < kRows; i++) total[i] = add(total[i], scores[i * stride + j]);
      }
    } else {
      for (int64_t j = 0; j <= first; j++) {
        for (int64_t i = 0; i < m; i++) total[i] = add(total[i], scores[i * stride + j]);
      }
    }
    for (int64_t i = 1; i < m; i++) {
      for (int64_t j = first + 1; j <= first + i; j++) total[i] = add(total[i], scores[i * stride + j]);
    }
    sum_over_keys(sums, size, scores, stride, head.v, head.row, first, m, size);
    for (int64_t i = 0; i < m; i++) {
      row_sum[first + i] = total[i];
      const float inverse = div(1.0f, total[i]);
      for (int64_t d = 0; d < size; d++) out[(first + i) * head.C + d] = mul(sums[i * size + d], inverse);
    }
  }
}

void attention_forward(float* out, float* row_max, float* row_sum, const float* qkv, int64_t B, int64_t T, int64_t C,
                       int64_t H) {
  parallel_blocks(B * H, [=](int64_t unit) {
    const Head head = head_of(qkv, unit, T, C, H);
    forward_head(out + unit / H * T * C + unit % H * head.size, row_max + unit * T, row_sum + unit * T, head);
  });
}

// c[j][size] += over the queries first..first+m-1 that see key j of weights[i][j] rows[i], for keys from..first + m
// - 1. Continues the chains in c, queries ascending.
static inline void sum_over_queries(float* c, const float* weights, int64_t weights_row, const float* rows, int64_t row,
                                    int64_t from, int64_t first, int64_t m, int64_t size) {
  chain_block(c + from * size, size, weights + from, 1, weights_row, rows, row, first + 1 - from, size, m, true);
  for (int64_t j = first + 1; j < first + m; j++) {
    for (int64_t i = j - first; i < m; i++) {
      const float w = weights[i * weights_row + j];
      for (int64_t d = 0; d < size; d++) c[j * size + d] = fma_(w, rows[i * row + d], c[j * size + d]);
    }
  }
}

static void backward_head(float* dq, float* dk, float* dv, const float* dout, const float* out, const float* row_max,
                          const float* row_sum, const Head& head) {
  const int64_t T = head.T, size = head.size, row = head.row, stride = padded(T);
  float* keys = scratch.reserve(2 * size * stride + 2 * kBlock * stride + 2 * T * size + kRows * size);
  float* values = keys + size * stride;
  float* weights = values + size * stride;  // p[kBlock][stride]
  float* dscores = weights + kBlock * stride;
  float* dkeys = dscores + kBlock * stride;
  float* dvalues = dkeys + T * size;
  float* sums = dvalues + T * size;
  transpose(keys, stride, head.k, row, T, size);
  transpose(values, stride, head.v, row, T, size);
  memset(dkeys, 0, (size_t)(2 * T * size) * sizeof(float));
  for (int64_t block = 0; block < T; block += kBlock) {
    const int64_t rows = T - block < kBlock ? T - block : kBlock;
    for (int64_t first = block; first < block + rows; first += kRows) {
      const int64_t m = block + rows - first < kRows ? block + rows - first : kRows;
      float* p = weights + (first - block) * stride;
      float* ds = dscores + (first - block) * stride;
      chain_block(p, stride, head.q + first * row, row, 1, keys, stride, m, first + m, size, false);
      chain_block(ds, stride, dout + first * head.C, head.C, 1, values, stride, m, first + m, size, false);
      for (int64_t i = 0; i < m; i++) {
        const int64_t query = first + i, count = query + 1;
        const float largest = row_max[query], inverse = div(1.0f, row_sum[query]), scale = head.scale;
        const float *dy = dout + query * head.C, *y = out + query * head.C;
        float delta = 0.0f;
        for (int64_t d = 0; d < size; d++) delta = fma_(dy[d], y[d], delta);
        float *pi = p + i * stride, *di = ds + i * stride;
        for (int64_t j = 0; j < count; j++) {
          const float weight = mul(exp_(sub(mul(pi[j], scale), largest)), inverse);
          pi[j] = weight;
          di[j] = mul(weight, sub(di[j], delta));
        }
      }
      sum_over_keys(sums, size, ds, stride, head.k, row, first, m, size);
      for (int64_t i = 0; i < m; i++) {
        for (int64_t d = 0; d < size; d++) dq[(first + i) * row + d] = mul(sums[i * size + d], head.scale);
      }
    }
    // Keys before the block are seen by all its queries; the others by the rows from their own on.
    chain_block(dvalues, size, weights, 1, stride, dout + block * head.C, head.C, block, size, rows, true);
    chain_block(dkeys, size, dscores, 1, stride, head.q + block * row, row, block, size, rows, true);
    for (int64_t first = block; first < block + rows; first += kRows) {
      const int64_t m = block + rows - first < kRows ? block + rows - first : kRows;
      sum_over_queries(dvalues, weights + (first - block) * stride, stride, dout + first * head.C, head.C, block, first,
                       m, size);
      sum_over_queries(dkeys, dscores + (first - block) * stride, stride, head.q + first * row, row, block, first, m,
                       size);
    }
  }
  for (int64_t t = 0; t < T; t++) {
    for (int64_t d = 0; d < size; d++) dk[t * row + d] = mul(dkeys[t * size + d], head.scale);
    memcpy(dv + t * row, dvalues + t * size, (size_t)size * sizeof(float));
  }
}

void attention_backward(float* dqkv, const float* dout, const float* out, const float* qkv, const float* row_max,
                        const float* row_sum, int64_t B, int64_t T, int64_t C, int64_t H) {
  parallel_blocks(B * H, [=](int64_t unit) {
    const Head head = head_of(qkv, unit, T, C, H);
    const int64_t at = unit / H * T * C + unit % H * head.size;
    float* dq = dqkv + unit / H * T * 3 * C + unit % H * head.size;
    backward_head(dq, dq + C, dq + 2 * C, dout + at, out + at, row_max + unit * T, row_sum + unit * T, head);
  });
}

void attention_cached(float* out, float* key_cache, float* value_cache, const float* qkv, int64_t B, int64_t T,
                      int64_t C, int64_t H, int64_t position, int64_t capacity) {
  parallel_blocks(B * H, [=](int64_t unit) {
    const Head head = head_of(qkv, unit, T, C, H);
    const int64_t size = head.size, row = head.row;
    float* keys = key_cache + unit * capacity * size;
    float* values = value_cache + unit * capacity * size;
    for (int64_t t = 0; t < T; t++) {
      memcpy(keys + (position + t) * size, head.k + t * row, (size_t)size * sizeof(float));
      memcpy(values + (position + t) * size, head.v + t * row, (size_t)size * sizeof(float));
    }
    float* weights = scratch.reserve(capacity + size);
    float* sums = weights + capacity;
    for (int64_t t = 0; t < T; t++) {
      const float* q = head.q + t * row;
      const int64_t count = position + t + 1;
      float largest = 0.0f;
      for (int64_t j = 0; j < count; j++) {
        float score = 0.0f;
        for (int64_t d = 0; d < size; d++) score = fma_(q[d], keys[j * size + d], score);
        weights[j] = mul(score, head.scale);
        largest = j == 0 ? weights[0] : max_(largest, weights[j]);
      }
      float total = 0.0f;
      for (int64_t j = 0; j < count; j++) weights[j] = exp_(sub(weights[j], largest));
      for (int64_t j = 0; j < count; j++) total = add(total, weights[j]);
      chain_block(sums, size, weights, count, 1, values, size, 1, size, count, false);
      const float inverse = div(1.0f, total);
      float* y = out + (unit / H * T + t) * C + unit % H * size;
      for (int64_t d = 0; d < size; d++) y[d] = mul(sums[d], inverse);
    }
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
