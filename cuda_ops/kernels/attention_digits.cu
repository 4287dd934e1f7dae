// Causal multi-head attention in digits (int8x3, int8x1): forward, and against a KV cache.
//
// Queries, keys and values are cut first, into scratch (attention_digits.h). Then a warp owns 16 queries of a head and
// 64 of its features, and walks the keys twice, in panels of 16 and blocks of 128: for the maxima, and for weights,
// which no other thread reads, and sums. Warps share nothing but what the caches hold; blocks of four warps come
// from the last queries and longest walks on.
//
// order: per score, blocks of features; the maximum; weights exp_(sub(score, max)), their sum a chain of additions over
// keys ascending, handed from lane to lane; blocks of 128 keys ascending, a query's scale of a block taken over the
// keys that it sees; one mul by 1 / sum. Keys that are not seen have weight 0 in sums of integers, and add +0 to the
// chain, which holds no other zero: both leave every bit.
#include "attention_digits.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

struct DigitAttention {
  float *out, *row_max, *row_sum;  // the last two: null when decoding
  Tokens q, k, v;
  Heads queries, keys;
  int position, C;  // of the first query
  float scale;
  bool wide;
};

template <int kDigits, int kHeld>
static __global__ void __launch_bounds__(kDigitThreads, 2) attention_digits_kernel(DigitAttention a) {
  __shared__ OwnMemory memory;
  const Own own_weights{memory};
  const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int units = a.queries.units, T = a.queries.T, size = a.queries.size, chunks = a.queries.chunks();
  const int panels = (T + kPanel - 1) / kPanel, tiles = (panels + kWarps - 1) / kWarps;
  const int unit = (int)blockIdx.x % units, tile = tiles - 1 - (int)blockIdx.x / units % tiles;
  const int piece = (int)blockIdx.x / (units * tiles) * kPiece;  // first panel of features
  const int own = tile * kWarps + (int)threadIdx.x / 32;         // panel of queries
  if (own >= panels) return;

  const int64_t key_panel = (int64_t)unit * a.keys.panels();
  const uint4* const keys = a.k.features + key_panel * chunks * kDigits * 32 + lane;
  const float *const key_scales = a.k.scales + key_panel * kPanel + 4 * t,
                     *folds = a.v.folds + key_panel * kPanel + 4 * t;
  const int64_t query_panel = (int64_t)unit * a.queries.panels() + own;
  const Left<kDigits, kHeld> left(a.q.features, query_panel, chunks, lane);
  const Pack<2> scales = load<2>(a.q.scales + query_panel * kPanel + 2 * g);
  const float row_scales[2] = {scales.x[0], scales.x[1]};
  const int row = own * kPanel + 2 * g;
  const int position[2] = {a.position + min(row, T - 1), a.position + min(row + 1, T - 1)};
  const int last = a.position + min(own * kPanel + kPanel - 1, T - 1);  // of the keys that the warp sees

  const auto score = [&](float (&s)[2][4], int panel) {
    scores<kDigits, kHeld, true>(s, left, keys + (int64_t)panel * chunks * kDigits * 32, chunks, row_scales,
                                 load<4>(key_scales + panel * kPanel));
#pragma unroll
    for (int i = 0; i < 8; i++) s[i / 4][i % 4] = mul(s[i / 4][i % 4], a.scale);
  };

  float largest[2] = {from_bits(0xff800000u), from_bits(0xff800000u)};
#pragma unroll 1
  for (int panel = 0; panel * kPanel <= last; panel++) {
    float s[2][4];
    score(s, panel);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int r = i / 4, key = panel * kPanel + 4 * t + i % 4;
      if (key <= position[r]) largest[r] = max_(largest[r], s[r][i % 4]);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    largest[r] = max_(largest[r], __shfl_xor_sync(~0u, largest[r], 1));
    largest[r] = max_(largest[r], __shfl_xor_sync(~0u, largest[r], 2));
  }

  float total[2] = {0.0f, 0.0f}, sums[kPiece][2][4];
  clear(sums);
#pragma unroll 1
  for (int block = 0; block * kDigitBlock <= last; block++) {
    uint32_t most[2] = {0, 0};
#pragma unroll 1
    for (int i = 0; i < kBlockPanels; i++) {
      const int panel = block * kBlockPanels + i, key = panel * kPanel + 4 * t;
      if (panel * kPanel > last) {
        own_weights(i, 0) = own_weights(i, 1) = Pack<4>{};
        continue;
      }
      float s[2][4];
      score(s, panel);
      const Pack<4> fold = load<4>(folds + panel * kPanel);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        Pack<4> folded;
#pragma unroll
        for (int c = 0; c < 4; c++) s[r][c] = key + c <= position[r] ? exp_(sub(s[r][c], largest[r])) : 0.0f;
#pragma unroll
        for (int owner = 0; owner < 4; owner++) {
          float sum = total[r];
#pragma unroll
          for (int c = 0; c < 4; c++) sum = add(sum, s[r][c]);
          total[r] = __shfl_sync(~0u, sum, owner, 4);
        }
#pragma unroll
        for (int c = 0; c < 4; c++) {
          folded.x[c] = key + c <= position[r] ? mul(s[r][c], fold.x[c]) : 0.0f;
          most[r] = larger(most[r], magnitude(folded.x[c]));
        }
        own_weights(i, r) = folded;
      }
    }
    const Weights<kDigits> weights(most, [&](int i, int r) { return own_weights(i, r); });
    const int64_t at = ((int64_t)unit * a.keys.blocks() + block) * a.keys.feature_panels() + piece;
    sum_tokens<kDigits>(sums, weights, a.v.tokens + at * 4 * kDigits * 32 + lane, a.keys.feature_panels() - piece, 0,
                        (last - block * kDigitBlock) / 32 + 1);
  }

  const float inverse[2] = {div(1.0f, total[0]), div(1.0f, total[1])};
  const int b = unit / a.queries.H, h = unit % a.queries.H;
  store_sums<true>(a.out + (int64_t)b * T * a.C + h * size, a.C, sums, inverse, row, T, piece * kPanel + 4 * t, size,
                   a.wide);
  if (a.row_max == nullptr || t != 0 || piece != 0) return;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    if (row + r >= T) continue;
    a.row_max[(int64_t)unit * T + row + r] = largest[r];
    a.row_sum[(int64_t)unit * T + row + r] = total[r];
  }
}

// The caches' rows from `position` on: a thread writes one float of each.
static __global__ void __launch_bounds__(256)
    extend_caches_kernel(float* key_cache, float* value_cache, const float* qkv, int64_t n, int T, int H, int size,
                         int position, int capacity) {
  const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;  // over [B,T,C]
  if (i >= n) return;
  const int C = H * size, c = (int)(i % C), t = (int)(i / C % T);
  const int64_t b = i / C / T, at = ((b * H + c / size) * capacity + position + t) * size + c % size;
  const float* const row = qkv + (b * T + t) * 3 * C + c;
  key_cache[at] = row[C];
  value_cache[at] = row[2 * C];
}

// ---------------------------------------------------------------- launchers

template <int kDigits>
static void attend(Stream cuda_stream, DigitAttention a, const HeadRows& q, const HeadRows& k, const HeadRows& v) {
  const auto pieces = [&](Room room) {
    a.q = room.tokens(a.queries, kDigits, false);
    a.k = room.tokens(a.keys, kDigits, false);
    a.v = room.tokens(a.keys, kDigits, true);
    return room.used;
  };
  const Scratch memory(cuda_stream, pieces(Room(nullptr)));
  pieces(Room(memory.as<void>()));
  cut_tokens<kDigits>(cuda_stream, a.q, q, a.queries);
  cut_tokens<kDigits>(cuda_stream, a.k, k, a.keys);
  cut_tokens<kDigits>(cuda_stream, a.v, v, a.keys);
  const int64_t tiles = (a.queries.T + kPanel * kWarps - 1) / (kPanel * kWarps);
  const int64_t parts = (a.queries.feature_panels() + kPiece - 1) / kPiece;
  with_held(a.queries.size, [&](auto held) {
    SAMEBITS_LAUNCH((attention_digits_kernel<kDigits, decltype(held)::value>),
                    dim3(grid_of(a.queries.units * tiles * parts)), dim3(kDigitThreads), 0, cuda_stream, a);
  });
}

static HeadRows rows_in_qkv(const float* x, int64_t T, int64_t C, int size) {
  return HeadRows{x, T * 3 * C, size, (int)(3 * C)};
}

static DigitAttention attention_of(float* out, int64_t B, int64_t T, int64_t C, int64_t H, int64_t position) {
  const int size = attention_head_size(C, H), units = (int)(B * H);
  const bool wide = size % 4 == 0 && C % 4 == 0 && aligned(out);
  return DigitAttention{out,
                        nullptr,
                        nullptr,
                        {},
                        {},
                        {},
                        Heads{units, (int)H, (int)T, size},
                        Heads{units, (int)H, (int)(position + T), size},
                        (int)position,
                        (int)C,
                        div(1.0f, sqrt_((float)size)),
                        wide};
}

void attention_digits_forward(Stream cuda_stream, float* out, float* row_max, float* row_sum, const float* qkv,
                              int64_t B, int64_t T, int64_t C, int64_t H, int digits) {
  if (B == 0 || T == 0) return;
  DigitAttention a = attention_of(out, B, T, C, H, 0);
  a.row_max = row_max;
  a.row_sum = row_sum;
  const auto run = digits == 2 ? attend<2> : attend<1>;
  run(cuda_stream, a, rows_in_qkv(qkv, T, C, a.queries.size), rows_in_qkv(qkv + C, T, C, a.queries.size),
      rows_in_qkv(qkv + 2 * C, T, C, a.queries.size));
}

void attention_digits_cached(Stream cuda_stream, float* out, float* key_cache, float* value_cache, const float* qkv,
                             int64_t B, int64_t T, int64_t C, int64_t H, int64_t position, int64_t capacity,
                             int digits) {
  if (B == 0 || T == 0) return;
  const DigitAttention a = attention_of(out, B, T, C, H, position);
  const int size = a.queries.size;
  const int64_t n = B * T * C;
  SAMEBITS_LAUNCH(extend_caches_kernel, dim3(blocks_for(n, 256)), dim3(256), 0, cuda_stream, key_cache, value_cache,
                  qkv, n, (int)T, (int)H, size, (int)position, (int)capacity);
  const auto cache = [&](const float* x) { return HeadRows{x, H * capacity * size, capacity * size, size}; };
  const auto run = digits == 2 ? attend<2> : attend<1>;
  run(cuda_stream, a, rows_in_qkv(qkv, T, C, size), cache(key_cache), cache(value_cache));
}

}  // namespace device
}  // namespace samebits
