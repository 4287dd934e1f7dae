// Gradients of causal multi-head attention from what the forward pass has kept.
//
// order: scores and weights are made again as in attention.cpp; every sum over keys is a chain in key order, every sum
// over queries a chain in query order. What may not be seen is skipped. Threads share out (sequence, head) pairs.
#include <string.h>

#include "attention.h"
#include "kernels.h"
#include "parallel.h"
#include "scratch.h"
#include "transpose.h"

namespace samebits {
namespace SAMEBITS_ISA {

// Queries of one block.
constexpr int kBlock = 32;

static thread_local Scratch scratch;

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
      weigh_again<kRows>(p, ds, stride, dout, out, head.C, row_max, row_sum, first, m, size, head.scale);
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

}  // namespace SAMEBITS_ISA
}  // namespace samebits
