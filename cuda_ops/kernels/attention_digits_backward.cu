// Gradients of causal multi-head attention in digits (int8x3, int8x1).
//
// attention_rows: a thread is one query of a head; it leaves delta, the maximum and 1 / sum where four neighbours can
// be read at once. Queries, keys, values and output gradients are cut into scratch (attention_digits.h). Then nothing
// is shared: attention_digits_keys: a warp owns 16 keys of a head and 64 of its features, queries stream past in blocks
// of 128 from its own first on; scores and gradients are made with keys as rows, so that the weights of a sum over
// queries lie in the registers that the matrix unit reads; it writes dk and dv. attention_digits_queries: a warp owns
// 16 queries; keys stream past; it writes dq. Scores are made again: seven products instead of five, and no gradient of
// a score in memory.
//
// order: delta is a chain of fma_ over d. p = mul(exp_(sub(score, row_max)), 1 / row_sum); ds = mul(p, sub(dp, delta)).
// Sums over keys and over queries go in blocks of 128 by their position in the sequence, ascending, from +0, each
// block's scale taken over what is seen; dq and dk end with one mul by scale.
#include "attention_digits.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

struct DigitGradients {
  float* dqkv;
  const float *dout, *out, *row_max, *row_sum;
  Tokens q, k, v, dy;
  float *deltas, *maxima, *inverses;  // [unit][token], in whole blocks
  Heads heads;
  int C;
  float scale;
  bool wide;
};

static __global__ void __launch_bounds__(128) attention_rows(DigitGradients g) {
  const int64_t i = (int64_t)blockIdx.x * 128 + threadIdx.x;
  const int padded = g.heads.panels() * kPanel, unit = (int)(i / padded), token = (int)(i % padded);
  if (unit >= g.heads.units) return;
  float delta = 0.0f, largest = 0.0f, inverse = 0.0f;
  if (token < g.heads.T) {
    const int64_t at = ((int64_t)(unit / g.heads.H) * g.heads.T + token) * g.C + unit % g.heads.H * g.heads.size;
    for (int d = 0; d < g.heads.size; d++) delta = fma_(g.dout[at + d], g.out[at + d], delta);
    largest = g.row_max[(int64_t)unit * g.heads.T + token];
    inverse = div(1.0f, g.row_sum[(int64_t)unit * g.heads.T + token]);
  }
  g.deltas[i] = delta;
  g.maxima[i] = largest;
  g.inverses[i] = inverse;
}

static __device__ __forceinline__ float weight_of(float score, float scale, float largest, float inverse) {
  return mul(exp_(sub(mul(score, scale), largest)), inverse);
}

static __device__ __forceinline__ void load_two(float (&x)[2], const float* p) {
  const Pack<2> two = load<2>(p);
  x[0] = two.x[0];
  x[1] = two.x[1];
}

template <int kDigits, int kHeld>
static __global__ void __launch_bounds__(kDigitThreads, 2) attention_digits_keys(DigitGradients p) {
  __shared__ OwnMemory memory;
  const Own own_weights{memory};
  const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int units = p.heads.units, T = p.heads.T, size = p.heads.size, chunks = p.heads.chunks();
  const int panels = (T + kPanel - 1) / kPanel, tiles = (panels + kWarps - 1) / kWarps;
  const int unit = (int)blockIdx.x % units, tile = (int)blockIdx.x / units % tiles;
  const int piece = (int)blockIdx.x / (units * tiles) * kPiece;
  const int own = tile * kWarps + (int)threadIdx.x / 32;  // panel of keys
  if (own >= panels) return;

  const int64_t first_panel = (int64_t)unit * p.heads.panels(), fragments = (int64_t)chunks * kDigits * 32;
  const Left<kDigits, kHeld> key(p.k.features, first_panel + own, chunks, lane);
  const Left<kDigits, kHeld> value(p.v.features, first_panel + own, chunks, lane);
  float key_scales[2], value_scales[2];
  load_two(key_scales, p.k.scales + (first_panel + own) * kPanel + 2 * g);
  load_two(value_scales, p.v.scales + (first_panel + own) * kPanel + 2 * g);
  const int row = own * kPanel + 2 * g;

  float dk[kPiece][2][4], dv[kPiece][2][4];
  clear(dk);
  clear(dv);
#pragma unroll 1
  for (int block = own / kBlockPanels; block < p.heads.blocks(); block++) {
    const int first = block * kBlockPanels;  // panel of queries
    const int64_t columns = (first_panel + first) * kPanel + 4 * t;
    const auto seen = [&](int i, int r, int c) {
      const int query = (first + i) * kPanel + 4 * t + c;
      return query >= row + r && query < T;
    };
    const int first_chunk = max(0, own - first) / 2, end_chunk = min(4, (min(kBlockPanels, panels - first) + 1) / 2);
    const int64_t at = ((int64_t)unit * p.heads.blocks() + block) * p.heads.feature_panels() + piece;
    const int64_t right = at * 4 * kDigits * 32 + lane;
    const int some = p.heads.feature_panels() - piece;
    uint32_t most[2] = {0, 0};
#pragma unroll 1
    for (int i = 0; i < kBlockPanels; i++) {
      if (first + i < own || first + i >= panels) {
        own_weights(i, 0) = own_weights(i, 1) = Pack<4>{};
        continue;
      }
      float s[2][4];
      scores<kDigits, kHeld, false>(s, key, p.q.features + (first_panel + first + i) * fragments + lane, chunks,
                                    key_scales, load<4>(p.q.scales + columns + i * kPanel));
      const Pack<4> largest = load<4>(p.maxima + columns + i * kPanel);
      const Pack<4> inverse = load<4>(p.inverses + columns + i * kPanel);
      const Pack<4> folds = load<4>(p.dy.folds + columns + i * kPanel);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        Pack<4> weight;
#pragma unroll
        for (int c = 0; c < 4; c++) {
          weight.x[c] = seen(i, r, c) ? weight_of(s[r][c], p.scale, largest.x[c], inverse.x[c]) : 0.0f;
          if (seen(i, r, c)) most[r] = larger(most[r], magnitude(mul(weight.x[c], folds.x[c])));
        }
        own_weights(i, r) = weight;
      }
    }
    const Weights<kDigits> of_douts(most, [&](int i, int r) {
      const Pack<4> folds = load<4>(p.dy.folds + columns + i * kPanel);
      Pack<4> weight = own_weights(i, r);
#pragma unroll
      for (int c = 0; c < 4; c++) weight.x[c] = seen(i, r, c) ? mul(weight.x[c], folds.x[c]) : 0.0f;
      return weight;
    });
    sum_tokens<kDigits>(dv, of_douts, p.dy.tokens + right, some, first_chunk, end_chunk);
    most[0] = most[1] = 0;
#pragma unroll 1
    for (int i = 0; i < kBlockPanels; i++) {
      if (first + i < own || first + i >= panels) continue;
      float s[2][4];
      scores<kDigits, kHeld, false>(s, value, p.dy.features + (first_panel + first + i) * fragments + lane, chunks,
                                    value_scales, load<4>(p.dy.scales + columns + i * kPanel));
      const Pack<4> delta = load<4>(p.deltas + columns + i * kPanel), folds = load<4>(p.q.folds + columns + i * kPanel);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        Pack<4> weight = own_weights(i, r);
#pragma unroll
        for (int c = 0; c < 4; c++) {
          const float folded = mul(mul(weight.x[c], sub(s[r][c], delta.x[c])), folds.x[c]);
          weight.x[c] = seen(i, r, c) ? folded : 0.0f;
          most[r] = larger(most[r], magnitude(weight.x[c]));
        }
        own_weights(i, r) = weight;
      }
    }
    const Weights<kDigits> of_queries(most, [&](int i, int r) { return own_weights(i, r); });
    sum_tokens<kDigits>(dk, of_queries, p.q.tokens + right, some, first_chunk, end_chunk);
  }
  const float scale[2] = {p.scale, p.scale};
  float* const to = p.dqkv + (int64_t)(unit / p.heads.H) * T * 3 * p.C + unit % p.heads.H * size;
  const int feature = piece * kPanel + 4 * t;
  store_sums<true>(to + p.C, 3 * p.C, dk, scale, row, T, feature, size, p.wide);
  store_sums<false>(to + 2 * p.C, 3 * p.C, dv, scale, row, T, feature, size, p.wide);
}

template <int kDigits, int kHeld>
static __global__ void __launch_bounds__(kDigitThreads, 2) attention_digits_queries(DigitGradients p) {
  __shared__ OwnMemory memory;
  const Own own_weights{memory};
  const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int units = p.heads.units, T = p.heads.T, size = p.heads.size, chunks = p.heads.chunks();
  const int panels = (T + kPanel - 1) / kPanel, tiles = (panels + kWarps - 1) / kWarps;
  const int unit = (int)blockIdx.x % units, tile = tiles - 1 - (int)blockIdx.x / units % tiles;
  const int piece = (int)blockIdx.x / (units * tiles) * kPiece;
  const int own = tile * kWarps + (int)threadIdx.x / 32;  // panel of queries
  if (own >= panels) return;

  const int64_t first_panel = (int64_t)unit * p.heads.panels(), fragments = (int64_t)chunks * kDigits * 32;
  const Left<kDigits, kHeld> query(p.q.features, first_panel + own, chunks, lane);
  const Left<kDigits, kHeld> dout(p.dy.features, first_panel + own, chunks, lane);
  const int64_t rows = (first_panel + own) * kPanel + 2 * g;
  float query_scales[2], dout_scales[2], largest[2], inverse[2], delta[2];
  load_two(query_scales, p.q.scales + rows);
  load_two(dout_scales, p.dy.scales + rows);
  load_two(largest, p.maxima + rows);
  load_two(inverse, p.inverses + rows);
  load_two(delta, p.deltas + rows);
  const int row = own * kPanel + 2 * g;

  float dq[kPiece][2][4];
  clear(dq);
#pragma unroll 1
  for (int block = 0; block <= own / kBlockPanels; block++) {
    const int first = block * kBlockPanels;  // panel of keys
    const int64_t columns = (first_panel + first) * kPanel + 4 * t;
    uint32_t most[2] = {0, 0};
#pragma unroll 1
    for (int i = 0; i < kBlockPanels; i++) {
      if (first + i > own) {
        own_weights(i, 0) = own_weights(i, 1) = Pack<4>{};
        continue;
      }
      const int64_t right = (first_panel + first + i) * fragments + lane;
      const int key = (first + i) * kPanel + 4 * t;
      float s[2][4], ds[2][4];
      scores<kDigits, kHeld, true>(s, query, p.k.features + right, chunks, query_scales,
                                   load<4>(p.k.scales + columns + i * kPanel));
      scores<kDigits, kHeld, true>(ds, dout, p.v.features + right, chunks, dout_scales,
                                   load<4>(p.v.scales + columns + i * kPanel));
      const Pack<4> folds = load<4>(p.k.folds + columns + i * kPanel);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        Pack<4> weight;
#pragma unroll
        for (int c = 0; c < 4; c++) {
          const float own_p = weight_of(s[r][c], p.scale, largest[r], inverse[r]);
          const float folded = mul(mul(own_p, sub(ds[r][c], delta[r])), folds.x[c]);
          weight.x[c] = key + c <= row + r ? folded : 0.0f;
          most[r] = larger(most[r], magnitude(weight.x[c]));
        }
        own_weights(i, r) = weight;
      }
    }
    const Weights<kDigits> weights(most, [&](int i, int r) { return own_weights(i, r); });
    const int64_t at = ((int64_t)unit * p.heads.blocks() + block) * p.heads.feature_panels() + piece;
    sum_tokens<kDigits>(dq, weights, p.k.tokens + at * 4 * kDigits * 32 + lane, p.heads.feature_panels() - piece, 0,
                        min(4, (own - first) / 2 + 1));
  }
  const float scale[2] = {p.scale, p.scale};
  float* const to = p.dqkv + (int64_t)(unit / p.heads.H) * T * 3 * p.C + unit % p.heads.H * size;
  store_sums<true>(to, 3 * p.C, dq, scale, row, T, piece * kPanel + 4 * t, size, p.wide);
}

// ---------------------------------------------------------------- launchers

template <int kDigits>
static void backward(Stream cuda_stream, DigitGradients g, const float* qkv) {
  const auto pieces = [&](Room room) {
    g.q = room.tokens(g.heads, kDigits, true);
    g.k = room.tokens(g.heads, kDigits, true);
    g.v = room.tokens(g.heads, kDigits, false);
    g.dy = room.tokens(g.heads, kDigits, true);
    g.deltas = room.floats(g.heads);
    g.maxima = room.floats(g.heads);
    g.inverses = room.floats(g.heads);
    return room.used;
  };
  const Scratch memory(cuda_stream, pieces(Room(nullptr)));
  pieces(Room(memory.as<void>()));
  const int64_t T = g.heads.T, C = g.C;
  const int size = g.heads.size;
  const auto rows = [&](const float* x) { return HeadRows{x, T * 3 * C, size, (int)(3 * C)}; };
  cut_tokens<kDigits>(cuda_stream, g.q, rows(qkv), g.heads);
  cut_tokens<kDigits>(cuda_stream, g.k, rows(qkv + C), g.heads);
  cut_tokens<kDigits>(cuda_stream, g.v, rows(qkv + 2 * C), g.heads);
  cut_tokens<kDigits>(cuda_stream, g.dy, HeadRows{g.dout, T * C, size, (int)C}, g.heads);
  const int64_t n = (int64_t)g.heads.units * g.heads.panels() * kPanel;
  SAMEBITS_LAUNCH(attention_rows, dim3(blocks_for(n, 128)), dim3(128), 0, cuda_stream, g);
  const int64_t tiles = (T + kPanel * kWarps - 1) / (kPanel * kWarps);
  const int64_t parts = (g.heads.feature_panels() + kPiece - 1) / kPiece;
  const dim3 grid(grid_of(g.heads.units * tiles * parts));
  with_held(size, [&](auto held) {
    SAMEBITS_LAUNCH((attention_digits_keys<kDigits, decltype(held)::value>), grid, dim3(kDigitThreads), 0, cuda_stream,
                    g);
    SAMEBITS_LAUNCH((attention_digits_queries<kDigits, decltype(held)::value>), grid, dim3(kDigitThreads), 0,
                    cuda_stream, g);
  });
}

void attention_digits_backward(Stream cuda_stream, float* dqkv, const float* dout, const float* out, const float* qkv,
                               const float* row_max, const float* row_sum, int64_t B, int64_t T, int64_t C, int64_t H,
                               int digits) {
  if (B == 0 || T == 0) return;
  DigitGradients g = {};
  g.dqkv = dqkv;
  g.dout = dout;
  g.out = out;
  g.row_max = row_max;
  g.row_sum = row_sum;
  g.heads = Heads{(int)(B * H), (int)H, (int)T, attention_head_size(C, H)};
  g.C = (int)C;
  g.scale = div(1.0f, sqrt_((float)g.heads.size));
  g.wide = g.heads.size % 4 == 0 && C % 4 == 0 && aligned(dqkv);
  const auto run = digits == 2 ? backward<2> : backward<1>;
  run(cuda_stream, g, qkv);
}

}  // namespace device
}  // namespace samebits
