// Causal multi-head attention (Vaswani et al. 2017, section 3.2): forward, and against a KV cache.
//
// order: a score is a chain over d, times scale = 1 / sqrt(head size); the exact maximum over the keys of a query comes
// first, then exponentials; their sum and every sum over keys are chains in key order. Keys that a query may not see
// are skipped, never added as zeros. There is no online rescaling, so blocks of queries are free. Threads share out
// (sequence, head) pairs.
#include "attention.h"

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"
#include "transpose.h"

namespace samebits {
namespace SAMEBITS_ISA {

static thread_local Scratch scratch;

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
      row_max[first + i] = weigh(scores + i * stride, first + i + 1, head.scale);
    }
    float total[kRows];
    sum_rows<kRows>(total, scores, stride, first, m);
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

void attention_cached(float* out, float* key_cache, float* value_cache, const float* qkv, int64_t B, int64_t T,
                      int64_t C, int64_t H, int64_t position, int64_t capacity) {
  parallel_blocks(B * H, [=](int64_t unit) {
    const Head head = head_of(qkv, unit, T, C, H);
    const int64_t size = head.size, row = head.row;
    float* keys = key_cache + unit * capacity * size;
    float* values = value_cache + unit * capacity * size;
    extend(keys, values, head, position);
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
