// Gradients of causal multi-head attention in digits (int8x3, int8x1).
//
// order: scores and weights are made again as in attention_digits.cpp; sums over keys and over queries in blocks of 128
// by their position in the sequence, each block's scale taken over what is seen. Threads share out (sequence, head)
// pairs; a block of 128 queries is held at once.
#include <string.h>

#include <initializer_list>

#include "attention_digits.h"
#include "kernels.h"
#include "parallel.h"

namespace samebits {
namespace SAMEBITS_ISA {

static thread_local Scratch scratch;

template <int kDigits>
struct Gradients {
  Operand<kDigits> keys, values;                           // along features, for s and dp
  Operand<kDigits> key_tokens, query_tokens, dout_tokens;  // along tokens, for dq, dk, dv
  Operand<kDigits> left, weights, columns;
  float *key_folds, *query_folds, *dout_folds, *factors, *one;
  float *p, *ds, *sums, *dkeys, *dvalues;
  int *query_exponents, *dout_exponents, *exponents;
  int64_t stride, wide;

  Gradients(Room& room, int64_t T, int64_t size) : stride(whole_panels(T)), wide(whole_panels(size)) {
    for (auto* o : {&keys, &values}) *o = room.operand<kDigits>(panels_of(T), blocks_of(size), false);
    for (auto* o : {&key_tokens, &query_tokens, &dout_tokens}) {
      *o = room.operand<kDigits>(panels_of(size), blocks_of(T), false);
    }
    left = room.operand<kDigits>(1, blocks_of(size), true);
    weights = room.operand<kDigits>(1, blocks_of(T), true);
    columns = room.operand<kDigits>(1, 1, true);
    for (auto** f : {&key_folds, &query_folds, &dout_folds, &factors}) *f = room.floats(T);
    one = room.floats(kPanel);
    for (auto** f : {&p, &ds}) *f = room.floats(kDigitBlock * stride);
    sums = room.floats(kPanel * wide);
    for (auto** f : {&dkeys, &dvalues}) *f = room.floats(stride * wide);
    for (auto** e : {&query_exponents, &dout_exponents, &exponents}) *e = (int*)room.floats(T);
  }
};

// s and dp of queries first .. first + m - 1 and the keys up to them.
template <class Dot, int kDigits>
static void score(const Gradients<kDigits>& g, float* s, float* dp, const Tokens& q, const Tokens& dy, int64_t first,
                  int64_t m) {
  cut_along_features<kDigits, true>(g.left, 0, q, g.query_exponents, first, m);
  multiply_rows<Dot, kDigits>(s, g.stride, g.left, m, g.keys, panels_of(first + m), q.size);
  cut_along_features<kDigits, true>(g.left, 0, dy, g.dout_exponents, first, m);
  multiply_rows<Dot, kDigits>(dp, g.stride, g.left, m, g.values, panels_of(first + m), q.size);
}

// c[keys][wide] += over the block's queries of weights[i][key] times the queries' folds, in digits, times `tokens`.
template <class Dot, int kDigits>
static void digits_over_queries(float* c, Gradients<kDigits>& g, const float* weights, const float* folds,
                                const Operand<kDigits>& tokens, int64_t block, int64_t rows, int64_t T,
                                int64_t panels) {
  const int steps[1] = {(int)(rows + 3) / 4};
  Operand<kDigits> right = tokens;
  right.digits += block / kDigitBlock * kDigits * kBlockBytes;
  for (int64_t key = 0; key < block + rows; key += kPanel) {
    const int64_t some = T - key < kPanel ? T - key : kPanel;
    const int from = key > block ? (int)(key - block) / 4 : 0;  // earlier queries do not see these keys
    cut_columns<kDigits, true>(g.columns, 0, 0, weights + key, g.stride, some, rows, folds + block, nullptr,
                               (int)(key - block));
    digit_panel<Dot, kDigits, kFromColumns>(c + key * g.wide, g.wide, g.columns, 0, some, right, panels, 0, 1, steps,
                                            from, true);
  }
}

template <class Dot, int kDigits>
static void backward_head(float* dq, float* dk, float* dv, const float* dout, const float* out, const float* row_max,
                          const float* row_sum, const Head& head) {
  const int64_t T = head.T, size = head.size, row = head.row, panels = panels_of(size);
  Room counted;
  Gradients<kDigits>(counted, T, size);
  Room room((uint8_t*)scratch.reserve(counted.used / 4));
  Gradients<kDigits> g(room, T, size);
  const Tokens q{head.q, row, T, size}, k{head.k, row, T, size}, v{head.v, row, T, size}, dy{dout, head.C, T, size};
  token_exponents(g.query_exponents, q);
  token_exponents(g.dout_exponents, dy);
  token_exponents(g.exponents, v);
  cut_all_along_features(g.values, v, g.exponents);
  token_exponents(g.exponents, k);
  cut_all_along_features(g.keys, k, g.exponents);
  cut_along_tokens(g.key_tokens, k, g.exponents, g.factors, g.one);
  cut_along_tokens(g.query_tokens, q, g.query_exponents, g.factors, g.one);
  cut_along_tokens(g.dout_tokens, dy, g.dout_exponents, g.factors, g.one);
  token_folds(g.key_folds, g.exponents, T);
  token_folds(g.query_folds, g.query_exponents, T);
  token_folds(g.dout_folds, g.dout_exponents, T);
  memset(g.dkeys, 0, (size_t)(g.stride * g.wide) * sizeof(float));
  memset(g.dvalues, 0, (size_t)(g.stride * g.wide) * sizeof(float));
  for (int64_t block = 0; block < T; block += kDigitBlock) {
    const int64_t rows = T - block < kDigitBlock ? T - block : kDigitBlock;
    for (int64_t first = block; first < block + rows; first += kPanel) {
      const int64_t m = block + rows - first < kPanel ? block + rows - first : kPanel;
      float *p = g.p + (first - block) * g.stride, *ds = g.ds + (first - block) * g.stride;
      score<Dot, kDigits>(g, p, ds, q, dy, first, m);
      weigh_again<kPanel>(p, ds, g.stride, dout, out, head.C, row_max, row_sum, first, m, size, head.scale);
      digits_over_keys<Dot, kDigits>(g.sums, g.wide, ds, g.stride, g.key_folds, g.weights, g.key_tokens, panels, first,
                                     m);
      for (int64_t i = 0; i < m; i++) {
        for (int64_t d = 0; d < size; d++) dq[(first + i) * row + d] = mul(g.sums[i * g.wide + d], head.scale);
      }
    }
    digits_over_queries<Dot, kDigits>(g.dkeys, g, g.ds, g.query_folds, g.query_tokens, block, rows, T, panels);
    digits_over_queries<Dot, kDigits>(g.dvalues, g, g.p, g.dout_folds, g.dout_tokens, block, rows, T, panels);
  }
  for (int64_t t = 0; t < T; t++) {
    for (int64_t d = 0; d < size; d++) dk[t * row + d] = mul(g.dkeys[t * g.wide + d], head.scale);
    memcpy(dv + t * row, g.dvalues + t * g.wide, (size_t)size * sizeof(float));
  }
}

void attention_digits_backward(float* dqkv, const float* dout, const float* out, const float* qkv, const float* row_max,
                               const float* row_sum, int64_t B, int64_t T, int64_t C, int64_t H, int digits) {
  with_dot_product([&](auto dot) {
    typedef decltype(dot) Dot;
    parallel_blocks(B * H, [=](int64_t unit) {
      const Head head = head_of(qkv, unit, T, C, H);
      const int64_t at = unit / H * T * C + unit % H * head.size;
      float* dq = dqkv + unit / H * T * 3 * C + unit % H * head.size;
      const auto run = digits == 2 ? backward_head<Dot, 2> : backward_head<Dot, 1>;
      run(dq, dq + C, dq + 2 * C, dout + at, out + at, row_max + unit * T, row_sum + unit * T, head);
    });
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
