// Causal multi-head attention in digits (int8x3, int8x1): forward, and against a KV cache.
//
// order: as in attention.cpp, with each sum over features and over keys in blocks of digits (digits.h); blocks of keys
// count from the sequence's first, and a query's scale of a block is taken over the keys that it sees. Threads share
// out (sequence, head) pairs; 16 queries walk the keys together.
#include "attention_digits.h"

#include "kernels.h"
#include "parallel.h"

namespace samebits {
namespace SAMEBITS_ISA {

static thread_local Scratch scratch;

// What attending needs of a head; made once, for any number of its queries.
template <int kDigits>
struct Keys {
  Operand<kDigits> keys, values, left, weights;
  float *folds, *factors, *one, *scores, *sums;
  int* exponents;
  int64_t stride, sums_stride;

  Keys(Room& room, int64_t T, int64_t size) {
    keys = room.operand<kDigits>(panels_of(T), blocks_of(size), false);
    values = room.operand<kDigits>(panels_of(size), blocks_of(T), false);
    left = room.operand<kDigits>(1, blocks_of(size), true);
    weights = room.operand<kDigits>(1, blocks_of(T), true);
    stride = whole_panels(T);
    sums_stride = whole_panels(size);
    folds = room.floats(T);
    factors = room.floats(T);
    one = room.floats(kPanel);
    exponents = (int*)room.floats(T);
    scores = room.floats(kPanel * stride);
    sums = room.floats(kPanel * sums_stride);
  }

  void cut(const Tokens& k, const Tokens& v) {
    token_exponents(exponents, k);
    cut_all_along_features(keys, k, exponents);
    token_exponents(exponents, v);
    token_folds(folds, exponents, v.T);
    cut_along_tokens(values, v, exponents, factors, one);
  }
};

// out[m][size] (rows out_row apart) of queries q[m], the first of which sees the keys up to `first`.
template <class Dot, int kDigits>
static void attend(float* out, int64_t out_row, float* row_max, float* row_sum, const Tokens& q, Keys<kDigits>& head,
                   int64_t first, int64_t m, float scale) {
  const int64_t limit = first + m, stride = head.stride;
  int exponents[kPanel];
  token_exponents(exponents, q);
  cut_along_features<kDigits, true>(head.left, 0, q, exponents, 0, m);
  multiply_rows<Dot, kDigits>(head.scores, stride, head.left, m, head.keys, panels_of(limit), q.size);
  float largest[kPanel], total[kPanel];
  for (int64_t i = 0; i < m; i++) largest[i] = weigh(head.scores + i * stride, first + i + 1, scale);
  sum_rows<kPanel>(total, head.scores, stride, first, m);
  digits_over_keys<Dot, kDigits>(head.sums, head.sums_stride, head.scores, stride, head.folds, head.weights,
                                 head.values, panels_of(q.size), first, m);
  for (int64_t i = 0; i < m; i++) {
    const float inverse = div(1.0f, total[i]);
    if (row_max) row_max[i] = largest[i];
    if (row_sum) row_sum[i] = total[i];
    for (int64_t d = 0; d < q.size; d++) out[i * out_row + d] = mul(head.sums[i * head.sums_stride + d], inverse);
  }
}

// Queries from `position` on, in groups of 16, against count keys and values.
template <class Dot, int kDigits>
static void attend_all(float* out, float* row_max, float* row_sum, const Head& head, const Tokens& k, const Tokens& v,
                       int64_t position) {
  Room counted;
  Keys<kDigits>(counted, k.T, head.size);
  Room room((uint8_t*)scratch.reserve(counted.used / 4));
  Keys<kDigits> keys(room, k.T, head.size);
  keys.cut(k, v);
  for (int64_t t = 0; t < head.T; t += kPanel) {
    const int64_t m = head.T - t < kPanel ? head.T - t : kPanel;
    attend<Dot, kDigits>(out + t * head.C, head.C, row_max ? row_max + t : nullptr, row_sum ? row_sum + t : nullptr,
                         Tokens{head.q + t * head.row, head.row, m, head.size}, keys, position + t, m, head.scale);
  }
}

void attention_digits_forward(float* out, float* row_max, float* row_sum, const float* qkv, int64_t B, int64_t T,
                              int64_t C, int64_t H, int digits) {
  with_dot_product([&](auto dot) {
    typedef decltype(dot) Dot;
    parallel_blocks(B * H, [=](int64_t unit) {
      const Head head = head_of(qkv, unit, T, C, H);
      const Tokens k{head.k, head.row, T, head.size}, v{head.v, head.row, T, head.size};
      float* y = out + unit / H * T * C + unit % H * head.size;
      digits == 2 ? attend_all<Dot, 2>(y, row_max + unit * T, row_sum + unit * T, head, k, v, 0)
                  : attend_all<Dot, 1>(y, row_max + unit * T, row_sum + unit * T, head, k, v, 0);
    });
  });
}

void attention_digits_cached(float* out, float* key_cache, float* value_cache, const float* qkv, int64_t B, int64_t T,
                             int64_t C, int64_t H, int64_t position, int64_t capacity, int digits) {
  with_dot_product([&](auto dot) {
    typedef decltype(dot) Dot;
    parallel_blocks(B * H, [=](int64_t unit) {
      const Head head = head_of(qkv, unit, T, C, H);
      const int64_t size = head.size, count = position + T;
      float *keys = key_cache + unit * capacity * size, *values = value_cache + unit * capacity * size;
      extend(keys, values, head, position);
      const Tokens k{keys, size, count, size}, v{values, size, count, size};
      float* y = out + unit / H * T * C + unit % H * size;
      digits == 2 ? attend_all<Dot, 2>(y, nullptr, nullptr, head, k, v, position)
                  : attend_all<Dot, 1>(y, nullptr, nullptr, head, k, v, position);
    });
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
