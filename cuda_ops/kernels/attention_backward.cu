// Gradients of causal multi-head attention: dqkv[B,T,3C] from dout[B,T,C] and what the forward pass has kept.
//
// Three kernels one after the other, none of which shares a sum between blocks, so nothing is atomic:
// attention_delta: a thread is one (b, t, h); it leaves delta where dq of that row and head will be, its first element.
// The rows of a warp lie one after the other and pass through shared memory in whole lines.
// attention_backward_keys: a block owns kOwn keys of a head, blockIdx.x counts heads, fastest, and tiles of keys, from
// the first and longest; queries stream past from its own first key on; it writes dk and dv, and the gradients of the
// scores to scratch: tiles [queries][keys], by query tile and, within it, by key tile.
// attention_backward_queries: a block owns kOwn queries, tiles from the last and longest; keys and those gradients
// stream past; it writes dq over delta. Scores are made again from q, k, row_max and row_sum once: five products. Heads
// go in groups, so that scratch is at most kScoreBytes or one head's. Tiles: attention_tile.h. 16-byte copies where
// sizes allow, 4-byte copies where not.
//
// order: delta is a chain of fma_ over d. p = mul(exp_(sub(score, row_max)), 1 / row_sum); dp is a chain of fma_ over
// d; ds = mul(p, sub(dp, delta)). dq is a chain over keys j <= i ascending, dk and dv are chains over queries i >= j
// ascending; dq and dk end with one mul by scale. What may not be seen is skipped.
#include "../numerics/exp_log.h"
#include "attention_tile.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

struct Gradients {
  float* dqkv;
  const float *dout, *out, *qkv, *row_max, *row_sum;
  int T, C, H, size;
  float scale;
  bool wide;
  float* dscores;  // of the heads from first_unit on
  int first_unit;
};

// The gradients of the scores of query tile i and key tile j <= i, of the head that is number `unit` of its group.
template <class S>
static __device__ __forceinline__ float* dscores_of(const Gradients& g, int unit, int tiles, int i, int j) {
  const int64_t pairs = (int64_t)tiles * (tiles + 1) / 2;
  return g.dscores + (unit * pairs + (int64_t)i * (i + 1) / 2 + j) * (S::kOwn * S::kOwn);
}

static __device__ __forceinline__ int earlier(int a, int b) { return a < b ? a : b; }
static __device__ __forceinline__ int later(int a, int b) { return a < b ? b : a; }

constexpr int kDeltaPiece = 32;

__global__ void __launch_bounds__(128) attention_delta(Gradients g, int64_t n) {
  __shared__ __align__(16) float pieces[4][2][32][kDeltaPiece + kPad];
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, first = i - lane;  // over [B,T,H]
  float delta = 0.0f;
  if (g.wide) {
    float (*const x)[kDeltaPiece + kPad] = pieces[warp][0];
    float (*const z)[kDeltaPiece + kPad] = pieces[warp][1];
    const int c = lane % 8 * 4;
    for (int d0 = 0; d0 < g.size; d0 += kDeltaPiece) {
      __syncwarp();  // the warp has read what lay there
#pragma unroll
      for (int r = lane / 8; r < 32; r += 4) {
        const int64_t at = (first + r) * g.size + d0 + c;
        if (first + r >= n || d0 + c >= g.size) continue;
        copy_async<16>(&x[r][c], g.dout + at);
        copy_async<16>(&z[r][c], g.out + at);
      }
      copy_async_commit();
      copy_async_wait<0>();
      __syncwarp();
      const int count = i >= n ? 0 : earlier(kDeltaPiece, g.size - d0);
#pragma unroll 2
      for (int d = 0; d < count; d += 4) {
        const Quad own_x = load_quad(&x[lane][d]), own_z = load_quad(&z[lane][d]);
#pragma unroll
        for (int e = 0; e < 4; e++) delta = fma_(own_x.x[e], own_z.x[e], delta);
      }
    }
  } else if (i < n) {
    for (int d = 0; d < g.size; d++) delta = fma_(g.dout[i * g.size + d], g.out[i * g.size + d], delta);
  }
  if (i < n) g.dqkv[i / g.H * 3 * g.C + i % g.H * g.size] = delta;
}

template <class S>
__global__ void __launch_bounds__(kAttentionThreads, S::kBlocks) attention_backward_keys(Gradients g) {
  SAMEBITS_DYNAMIC_SHARED(float, keys);
  float* values = keys + S::kOwn * S::kStride;
  float* queries = values + S::kOwn * S::kStride;
  float* douts = queries + S::kStream * S::kStride;
  float* weights = douts + S::kStream * S::kStride;
  float* maxima = weights + S::kWeights;  // of the streamed queries, then their sums and deltas
  float *sums = maxima + S::kStream, *deltas = sums + S::kStream;

  const int T = g.T, C = g.C, size = g.size, row_length = 3 * C;
  const int tiles = (T + S::kOwn - 1) / S::kOwn, units = (int)gridDim.x / tiles;
  const int own_unit = (int)blockIdx.x % units, unit = g.first_unit + own_unit;
  const int own0 = (int)blockIdx.x / units * S::kOwn, b = unit / g.H, h = unit % g.H;
  const int64_t base = (int64_t)b * T * row_length + h * size;
  const float *q = g.qkv + base, *k = q + C, *v = k + C, *dout = g.dout + (int64_t)b * T * C + h * size;
  const float *row_max = g.row_max + (int64_t)unit * T, *row_sum = g.row_sum + (int64_t)unit * T;
  const float* delta = g.dqkv + base;

  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int row = warp * 4 + lane_row<4>(lane), column = lane_column<4>(lane);

  float dk[S::kRows][4 * S::kParts], dv[S::kRows][4 * S::kParts];
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
#pragma unroll
    for (int n = 0; n < 4 * S::kParts; n++) dk[r][n] = dv[r][n] = 0.0f;
  }
  const auto copy_douts = [&](int query0) {
    copy_rows<S::kStream, S::kSize>(douts, dout, C, query0, T - 1, size, g.wide);
    const int i = (int)threadIdx.x, query = earlier(query0 + i, T - 1);
    if (i < S::kStream) {
      copy_async<4>(maxima + i, row_max + query);
      copy_async<4>(sums + i, row_sum + query);
      copy_async<4>(deltas + i, delta + (int64_t)query * row_length);
    }
    copy_async_commit();
  };
  const auto copy_queries = [&](int query0) {
    copy_rows<S::kStream, S::kSize>(queries, q, row_length, query0, T - 1, size, g.wide);
    copy_async_commit();
  };
  static_assert(S::kOwn == S::kStream, "tiles of keys and of queries are the same");
  int query0 = own0;
  copy_rows<S::kOwn, S::kSize>(values, v, row_length, own0, T - 1, size, g.wide);
  copy_douts(query0);
  copy_rows<S::kOwn, S::kSize>(keys, k, row_length, own0, T - 1, size, g.wide);
  copy_queries(query0);
#pragma unroll 1
  for (; query0 < T; query0 += S::kStream) {
    float p[S::kRows][S::kColumns], ds[S::kRows][S::kColumns];
    copy_async_wait<1>();  // gradients of the outputs
    __syncthreads();
    products<S>(ds, values + row * S::kStride, douts + column * S::kStride, size);
    copy_async_wait<0>();  // queries
    __syncthreads();
    products<S>(p, keys + row * S::kStride, queries + column * S::kStride, size);
#pragma unroll
    for (int c = 0; c < S::kColumns; c++) {
      const float largest = maxima[column + 8 * c], inverse = div(1.0f, sums[column + 8 * c]);
      const float own_delta = deltas[column + 8 * c];
#pragma unroll
      for (int r = 0; r < S::kRows; r++) {
        p[r][c] = mul(exp_(sub(mul(p[r][c], g.scale), largest)), inverse);
        ds[r][c] = mul(p[r][c], sub(ds[r][c], own_delta));
      }
    }
    float* const dscores = dscores_of<S>(g, own_unit, tiles, query0 / S::kStream, own0 / S::kOwn);
#pragma unroll
    for (int c = 0; c < S::kColumns; c++) {
#pragma unroll
      for (int r = 0; r < S::kRows; r++) dscores[(column + 8 * c) * S::kOwn + row + 16 * r] = ds[r][c];
    }
    int first[S::kRows], end[S::kRows];
#pragma unroll
    for (int r = 0; r < S::kRows; r++) {
      first[r] = later(0, own0 + row + 16 * r - query0);
      end[r] = earlier(S::kStream, T - query0);
    }
    const bool masked = query0 < own0 + S::kOwn - 1 || query0 + S::kStream > T;
    float* own_weights = weights + row * S::kWeightStride;
    const auto nothing = [](int) {};
    share<S>(own_weights + column, p);
    if (masked) {
      sum_rows_as<S, true>(dv, own_weights, douts + column * 4, first, end, nothing);
    } else {
      sum_rows_as<S, false>(dv, own_weights, douts + column * 4, first, end, nothing);
    }
    __syncthreads();
    if (query0 + S::kStream < T) copy_douts(query0 + S::kStream);
    share<S>(own_weights + column, ds);
    if (masked) {
      sum_rows_as<S, true>(dk, own_weights, queries + column * 4, first, end, nothing);
    } else {
      sum_rows_as<S, false>(dk, own_weights, queries + column * 4, first, end, nothing);
    }
    __syncthreads();
    if (query0 + S::kStream < T) copy_queries(query0 + S::kStream);
  }
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
#pragma unroll
    for (int n = 0; n < 4 * S::kParts; n++) dk[r][n] = mul(dk[r][n], g.scale);
  }
  store_rows<S>(g.dqkv + base + C, row_length, own0 + row, column, T, size, g.wide, dk);
  store_rows<S>(g.dqkv + base + 2 * C, row_length, own0 + row, column, T, size, g.wide, dv);
}

template <class S>
__global__ void __launch_bounds__(kAttentionThreads, 3) attention_backward_queries(Gradients g) {
  SAMEBITS_DYNAMIC_SHARED(float, keys);  // two tiles, then two of weights
  constexpr int kKeys = S::kStream * S::kStride;
  float* const weights = keys + 2 * kKeys;

  const int T = g.T, size = g.size, row_length = 3 * g.C;
  const int tiles = (T + S::kOwn - 1) / S::kOwn, units = (int)gridDim.x / tiles;
  const int own_unit = (int)blockIdx.x % units, unit = g.first_unit + own_unit;
  const int own_tile = tiles - 1 - (int)blockIdx.x / units, own0 = own_tile * S::kOwn;
  const int64_t base = (int64_t)(unit / g.H) * T * row_length + unit % g.H * size;
  const float* k = g.qkv + base + g.C;

  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int row = warp * 4 + lane_row<4>(lane), column = lane_column<4>(lane);

  const auto copy = [&](int tile) {
    copy_rows<S::kStream, S::kSize>(keys + tile % 2 * kKeys, k, row_length, tile * S::kStream, T - 1, size, g.wide);
    const float* dscores = dscores_of<S>(g, own_unit, tiles, own_tile, tile);
    float* const own_weights = weights + tile % 2 * S::kWeights;
#pragma unroll 4
    for (int at = (int)threadIdx.x * 4; at < S::kOwn * S::kStream; at += kAttentionThreads * 4) {
      const int r = at / S::kStream;
      copy_async<16>(own_weights + r / 16 * S::kWeightBlock + r % 16 * S::kWeightStride + at % S::kStream,
                     dscores + at);
    }
  };
  float dq[S::kRows][4 * S::kParts];
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
#pragma unroll
    for (int n = 0; n < 4 * S::kParts; n++) dq[r][n] = 0.0f;
  }
  copy(0);
  copy_async_commit();
#pragma unroll 1
  for (int tile = 0; tile <= own_tile; tile++) {
    if (tile < own_tile) copy(tile + 1);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    int first[S::kRows], end[S::kRows];
#pragma unroll
    for (int r = 0; r < S::kRows; r++) {
      first[r] = 0;
      end[r] = row + 16 * r + 1;  // of the tile on the diagonal
    }
    const float* own_weights = weights + tile % 2 * S::kWeights + row * S::kWeightStride;
    const float* own_keys = keys + tile % 2 * kKeys + column * 4;
    const auto nothing = [](int) {};
    if (tile == own_tile) {
      sum_rows_as<S, true>(dq, own_weights, own_keys, first, end, nothing);
    } else {
      sum_rows_as<S, false>(dq, own_weights, own_keys, first, end, nothing);
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
#pragma unroll
    for (int n = 0; n < 4 * S::kParts; n++) dq[r][n] = mul(dq[r][n], g.scale);
  }
  store_rows<S>(g.dqkv + base, row_length, own0 + row, column, T, size, g.wide, dq);
}

// ---------------------------------------------------------------- launchers

constexpr int64_t kScoreBytes = int64_t(256) << 20;

template <class S>
static void launch_backward(Stream cuda_stream, Gradients g, int64_t B) {
  const int64_t n = B * g.T * g.H, units = B * g.H, tiles = (g.T + S::kOwn - 1) / S::kOwn;
  const int64_t unit_bytes = tiles * (tiles + 1) / 2 * S::kOwn * S::kOwn * (int64_t)sizeof(float);
  const int64_t most = kScoreBytes / unit_bytes > 1 ? kScoreBytes / unit_bytes : 1, group = most < units ? most : units;
  const Scratch dscores(cuda_stream, (size_t)(group * unit_bytes));
  g.dscores = dscores.as<float>();
  constexpr size_t kKeysFloats = 2 * (S::kOwn + S::kStream) * S::kStride + S::kWeights + 3 * S::kStream;
  constexpr size_t kQueriesFloats = 2 * S::kStream * S::kStride + 2 * S::kWeights;
  SAMEBITS_LAUNCH(attention_delta, dim3(blocks_for(n, 128)), dim3(128), 0, cuda_stream, g, n);
  for (int64_t first = 0; first < units; first += group) {
    const dim3 grid(grid_of(tiles * (units - first < group ? units - first : group)));
    g.first_unit = (int)first;
    SAMEBITS_LAUNCH(attention_backward_keys<S>, grid, dim3(kAttentionThreads), kKeysFloats * sizeof(float), cuda_stream,
                    g);
    SAMEBITS_LAUNCH(attention_backward_queries<S>, grid, dim3(kAttentionThreads), kQueriesFloats * sizeof(float),
                    cuda_stream, g);
  }
}

void attention_backward(Stream cuda_stream, float* dqkv, const float* dout, const float* out, const float* qkv,
                        const float* row_max, const float* row_sum, int64_t B, int64_t T, int64_t C, int64_t H) {
  if (B == 0 || T == 0) return;
  const int size = attention_head_size(C, H);
  const bool wide = size % 4 == 0 && rows_aligned(qkv, 3 * C) && rows_aligned(dqkv, 3 * C) && rows_aligned(dout, C) &&
                    rows_aligned(out, C);
  const Gradients g{
      dqkv, dout,    out, qkv, row_max, row_sum, (int)T, (int)C, (int)H, size, div(1.0f, sqrt_((float)size)),
      wide, nullptr, 0};
  if (size <= 32) {
    launch_backward<Shape<32, 4, 8, 2>>(cuda_stream, g, B);
  } else if (size <= 64 && attention_in_small_tiles()) {
    launch_backward<Shape<64, 2, 4, 2>>(cuda_stream, g, B);
  } else if (size <= 64) {
    launch_backward<Shape<64, 4, 8, 2>>(cuda_stream, g, B);
  } else if (size <= 128) {
    launch_backward<Shape<128, 2, 4, 2>>(cuda_stream, g, B);
  } else {
    launch_backward<Shape<256, 1, 2, 2>>(cuda_stream, g, B);
  }
}

}  // namespace device
}  // namespace samebits
