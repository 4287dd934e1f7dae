// Causal multi-head attention (Vaswani et al. 2017, section 3.2): forward, and decoding against a KV cache.
//
// attention_queries: blockIdx.x counts the sequences and heads, fastest, and the tiles of kOwn queries, from the last
// and longest; a block owns one tile and streams tiles of keys and values past it (attention_tile.h): once for the
// exact maxima, once for exponentials and sums. Scores live in registers; nothing T x T is ever stored. Products are
// made again in the second pass: that costs a third of the arithmetic and buys exact maxima without rescaling.
// attention_scores, attention_weighted (decoding, fewer than 16 queries): many blocks make the scores of a query, which
// wait in scratch; then maximum, weights and sums. The values come while the scores are looked at.
// qkv[B,T,3C] holds q, k, v of all heads in each row; caches are [B,H,capacity,size]. Head sizes up to 256; 16-byte
// copies where size and rows are multiples of 4, 4-byte copies where not.
//
// order: a score is a chain of fma_ over d, then one mul by scale; max_ over keys j <= i, exact, before any
// exponential; exp_(score - maximum); their sum is a chain of add over j, an output a chain of fma_ over j, then one
// mul by 1 / sum. Keys that a query may not see are skipped, never added as zeros.
#include "../numerics/exp_log.h"
#include "attention_tile.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

// Where heads lie: head h of sequence b begins at b * batch + h * head, its rows are `row` floats apart.
struct Rows {
  int64_t batch, head;
  int row;
};
struct Attention {
  const float *q, *k, *v;
  Rows queries, keys;
  int T, position, H, size;  // query i sees the keys up to position + i
  float scale;
  bool wide;
};

// out[B,T,H * size], row_max[B,H,T] and row_sum (same) or null.
template <class S>
__global__ void __launch_bounds__(kAttentionThreads, S::kBlocks)
    attention_queries(float* out, float* row_max, float* row_sum, Attention a, int tiles) {
  SAMEBITS_DYNAMIC_SHARED(float, queries);
  float* keys = queries + S::kOwn * S::kStride;
  float* values = keys + S::kStream * S::kStride;
  float* weights = values + S::kStream * S::kStride;

  const int units = (int)gridDim.x / tiles, unit = (int)blockIdx.x % units;
  const int own0 = (tiles - 1 - (int)blockIdx.x / units) * S::kOwn;
  const int b = unit / a.H, h = unit % a.H, size = a.size;
  const float* q = a.q + b * a.queries.batch + h * a.queries.head;
  const float* k = a.k + b * a.keys.batch + h * a.keys.head;
  const float* v = a.v + b * a.keys.batch + h * a.keys.head;

  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int row = warp * 4 + lane_row<4>(lane), column = lane_column<4>(lane);
  const int last_query = (own0 + S::kOwn < a.T ? own0 + S::kOwn : a.T) - 1;
  const int last_key = a.position + a.T - 1, key_tiles = (a.position + last_query) / S::kStream + 1;
  const float *own_row = queries + row * S::kStride, *key_row = keys + column * S::kStride;
  // Whether some query of the tile does not see some key of tile t.
  const auto masked = [&](int t) { return (t + 1) * S::kStream - 1 > a.position + own0; };
  const auto key_count = [&](int own_query, int t) { return a.position + own_query + 1 - t * S::kStream; };

  // First pass: maxima. Two tiles of keys take turns, the second where the values will be.
  float s[S::kRows][S::kColumns], largest[S::kRows];
#pragma unroll
  for (int r = 0; r < S::kRows; r++) largest[r] = from_bits(0xff800000u);
  copy_rows<S::kOwn, S::kSize>(queries, q, a.queries.row, own0, a.T - 1, size, a.wide);
  copy_rows<S::kStream, S::kSize>(keys, k, a.keys.row, 0, last_key, size, a.wide);
  copy_async_commit();
#pragma unroll 1
  for (int t = 0; t < key_tiles; t++) {
    float* next = t % 2 ? keys : values;
    if (t + 1 < key_tiles) {
      copy_rows<S::kStream, S::kSize>(next, k, a.keys.row, (t + 1) * S::kStream, last_key, size, a.wide);
    }
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    products<S>(s, own_row, key_row + (t % 2 ? S::kStream * S::kStride : 0), size);
#pragma unroll
    for (int r = 0; r < S::kRows; r++) {
      const int count = masked(t) ? key_count(own0 + row + 16 * r, t) : S::kStream;
#pragma unroll
      for (int c = 0; c < S::kColumns; c++) {
        if (column + 8 * c < count) largest[r] = max_(largest[r], mul(s[r][c], a.scale));
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
#pragma unroll
    for (int bit = 2; bit <= 8; bit *= 2) {  // the lanes of a row: lane_column<4>
      largest[r] = max_(largest[r], __shfl_xor_sync(~0u, largest[r], bit));
    }
  }

  // Second pass: exponentials and sums. Lane l of a warp also walks the sum of one of its rows.
  float sum[S::kRows][4 * S::kParts];
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
#pragma unroll
    for (int n = 0; n < 4 * S::kParts; n++) sum[r][n] = 0.0f;
  }
  float total = 0.0f;
  const int total_block = lane % (4 * S::kRows) / 4, total_in = warp * 4 + lane % 4,
            total_row = total_block * 16 + total_in;
  copy_rows<S::kStream, S::kSize>(keys, k, a.keys.row, 0, last_key, size, a.wide);
  copy_async_commit();
  copy_rows<S::kStream, S::kSize>(values, v, a.keys.row, 0, last_key, size, a.wide);
  copy_async_commit();
#pragma unroll 1
  for (int t = 0; t < key_tiles; t++) {
    const int next = (t + 1) * S::kStream;
    copy_async_wait<1>();  // keys
    __syncthreads();
    products<S>(s, own_row, key_row, size);
    __syncthreads();
    if (t + 1 < key_tiles) copy_rows<S::kStream, S::kSize>(keys, k, a.keys.row, next, last_key, size, a.wide);
    copy_async_commit();
#pragma unroll
    for (int r = 0; r < S::kRows; r++) {
#pragma unroll
      for (int c = 0; c < S::kColumns; c++) s[r][c] = exp_(sub(mul(s[r][c], a.scale), largest[r]));
    }
    share<S>(weights + row * S::kWeightStride + column, s);
    copy_async_wait<1>();  // values
    __syncthreads();
    const float *own_weights = weights + row * S::kWeightStride, *value_column = values + column * 4;
    const float* total_weights = weights + total_block * S::kWeightBlock + total_in * S::kWeightStride;
    int first[S::kRows], end[S::kRows];
#pragma unroll
    for (int r = 0; r < S::kRows; r++) {
      first[r] = 0;
      end[r] = key_count(own0 + row + 16 * r, t);
    }
    if (masked(t)) {
      const int total_end = key_count(own0 + total_row, t);
      sum_rows_as<S, true>(sum, own_weights, value_column, first, end, [&](int j) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
          if (j + c < total_end) total = add(total, total_weights[j + c]);
        }
      });
    } else {
      sum_rows_as<S, false>(sum, own_weights, value_column, first, end, [&](int j) {
        const Quad e = load_quad(total_weights + j);
#pragma unroll
        for (int c = 0; c < 4; c++) total = add(total, e.x[c]);
      });
    }
    __syncthreads();
    if (t + 1 < key_tiles) copy_rows<S::kStream, S::kSize>(values, v, a.keys.row, next, last_key, size, a.wide);
    copy_async_commit();
  }

#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
    const float own_total = __shfl_sync(~0u, total, 4 * r + lane_row<4>(lane));
    const float inverse = div(1.0f, own_total);
#pragma unroll
    for (int n = 0; n < 4 * S::kParts; n++) sum[r][n] = mul(sum[r][n], inverse);
    const int query = own0 + row + 16 * r;
    if (row_max && column == 0 && query < a.T) {
      row_max[(int64_t)unit * a.T + query] = largest[r];
      row_sum[(int64_t)unit * a.T + query] = own_total;
    }
  }
  const int C = a.H * size;
  store_rows<S>(out + (int64_t)b * a.T * C + h * size, C, own0 + row, column, a.T, size, a.wide, sum);
}

// Decoding. scores[B,H,T,columns]: blockIdx.x counts tiles of 64 keys, then T, H, B; a thread has one key, whose row
// reaches it through shared memory, 64 channels at a time. The keys of the new tokens are read from qkv; the blocks of
// the last query write them and their values to the caches.
constexpr int kScoreKeys = 64, kScorePiece = 64;

__global__ void __launch_bounds__(kScoreKeys)
    attention_scores(float* scores, float* key_cache, float* value_cache, Attention a, int columns, int tiles) {
  __shared__ __align__(16) float keys[kScoreKeys][kScorePiece + kPad], query[kScorePiece];
  const int thread = (int)threadIdx.x, first = (int)blockIdx.x % tiles * kScoreKeys, row = (int)blockIdx.x / tiles;
  const int t = row % a.T, unit = row / a.T, b = unit / a.H, h = unit % a.H, count = a.position + t + 1;
  if (first >= count) return;
  const float* q = a.q + b * a.queries.batch + h * a.queries.head + (int64_t)t * a.queries.row;
  const int64_t head = b * a.keys.batch + h * a.keys.head;
  const float* fresh =
      a.q + b * a.queries.batch + (a.H + h) * a.size;  // keys of the new tokens, their values H * size on
  const auto key_row = [&](int r) {
    const int j = first + r, j_new = j - a.position;
    return j_new < 0 ? key_cache + head + (int64_t)j * a.keys.row : fresh + (int64_t)j_new * a.queries.row;
  };
  float score = 0.0f;
  for (int d0 = 0; d0 < a.size; d0 += kScorePiece) {
    const int width = a.size - d0 < kScorePiece ? a.size - d0 : kScorePiece;
    __syncthreads();
    if (a.wide) {
#pragma unroll
      for (int r = thread / 16; r < kScoreKeys; r += kScoreKeys / 16) {
        const int d = thread % 16 * 4;
        if (first + r < count && d < width) copy_async<16>(&keys[r][d], key_row(r) + d0 + d);
      }
    } else {
      for (int r = 0; r < kScoreKeys; r++) {
        if (first + r < count && thread < width) {
          copy_async<4>(&keys[r][thread], key_row(r) + d0 + thread);
        }
      }
    }
    copy_async_commit();
    if (thread < width) query[thread] = q[d0 + thread];
    copy_async_wait<0>();
    __syncthreads();
    int d = 0;
#pragma unroll 4
    for (; d + 4 <= width; d += 4) {
      const Quad x = load_quad(query + d), y = load_quad(&keys[thread][d]);
#pragma unroll
      for (int c = 0; c < 4; c++) score = fma_(x.x[c], y.x[c], score);
    }
    for (; d < width; d++) score = fma_(query[d], keys[thread][d], score);
  }
  if (t == a.T - 1) {
    for (int j = first > a.position ? first : a.position; j < count && j < first + kScoreKeys; j++) {
      const float* own = fresh + (int64_t)(j - a.position) * a.queries.row;
      for (int d = thread; d < a.size; d += kScoreKeys) {
        key_cache[head + (int64_t)j * a.keys.row + d] = own[d];
        value_cache[head + (int64_t)j * a.keys.row + d] = own[a.H * a.size + d];
      }
    }
  }
  if (first + thread < count) scores[(int64_t)row * columns + first + thread] = mul(score, a.scale);
}

// out[B,T,H * size] from scores: blockIdx.x counts pieces of 32 channels, then T, H, B. All threads bring values and
// make weights; lane d of the first warp walks channel d, and each of its lanes the sum of the weights.
constexpr int kSumThreads = 128, kSumPiece = 32, kSumKeys = 128, kSumStages = 3, kSumWeights = 1024;

__global__ void __launch_bounds__(kSumThreads)
    attention_weighted(float* out, const float* scores, Attention a, int columns, int pieces) {
  SAMEBITS_DYNAMIC_SHARED(float, values);  // [kSumStages][kSumKeys][kSumPiece]
  float* const weights = values + kSumStages * kSumKeys * kSumPiece;
  __shared__ float maxima[kSumThreads / 32];
  const int thread = (int)threadIdx.x, lane = thread % 32, row = (int)blockIdx.x / pieces;
  const int d0 = (int)blockIdx.x % pieces * kSumPiece, width = a.size - d0 < kSumPiece ? a.size - d0 : kSumPiece;
  const int t = row % a.T, unit = row / a.T, b = unit / a.H, h = unit % a.H, count = a.position + t + 1;
  const float* v = a.v + b * a.keys.batch + h * a.keys.head + d0;
  const float* s = scores + (int64_t)row * columns;

  const auto copy = [&](int tile) {
    float* const stage = values + tile % kSumStages * kSumKeys * kSumPiece;
    const int first = tile * kSumKeys;
    if (a.wide) {
      const int d = thread % 8 * 4;
#pragma unroll
      for (int r = thread / 8; r < kSumKeys; r += kSumThreads / 8) {
        if (first + r < count && d < width) {
          copy_async<16>(stage + r * kSumPiece + d, v + (int64_t)(first + r) * a.keys.row + d);
        }
      }
    } else {
      for (int r = thread / 32; r < kSumKeys; r += kSumThreads / 32) {
        if (first + r < count && lane < width) {
          copy_async<4>(stage + r * kSumPiece + lane, v + (int64_t)(first + r) * a.keys.row + lane);
        }
      }
    }
    copy_async_commit();
  };
  for (int tile = 0; tile < kSumStages - 1; tile++) copy(tile);

  float largest = from_bits(0xff800000u);
#pragma unroll 8
  for (int j = thread; j < count; j += kSumThreads) largest = max_(largest, s[j]);
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) largest = max_(largest, __shfl_xor_sync(~0u, largest, bit));
  if (lane == 0) maxima[thread / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kSumThreads / 32; w++) largest = max_(largest, maxima[w]);

  float total = 0.0f, sum = 0.0f;
  for (int first = 0, tile = 0; first < count; first += kSumKeys, tile++) {
    if (first % kSumWeights == 0) {
      __syncthreads();  // the weights before have been read
      for (int j = thread; j < kSumWeights && first + j < count; j += kSumThreads) {
        weights[j] = exp_(sub(s[first + j], largest));
      }
    }
    copy_async_wait<kSumStages - 2>();
    __syncthreads();
    copy(tile + kSumStages - 1);
    if (thread >= 32) continue;
    const float* const value = values + tile % kSumStages * kSumKeys * kSumPiece + lane;
    const float* const weight = weights + first % kSumWeights;
    const int keys = count - first < kSumKeys ? count - first : kSumKeys;
    int j = 0;
#pragma unroll 4
    for (; j + 4 <= keys; j += 4) {
      const Quad w = load_quad(weight + j);
#pragma unroll
      for (int c = 0; c < 4; c++) {
        total = add(total, w.x[c]);
        sum = fma_(w.x[c], value[(j + c) * kSumPiece], sum);
      }
    }
    for (; j < keys; j++) {
      total = add(total, weight[j]);
      sum = fma_(weight[j], value[j * kSumPiece], sum);
    }
  }
  if (thread < width) {
    out[((int64_t)b * a.T + t) * a.H * a.size + (int64_t)h * a.size + d0 + thread] = mul(sum, div(1.0f, total));
  }
}

// key_cache, value_cache[B,H,capacity,size] at position.. = the keys and values of qkv[B,T,3C]; a thread is one
// element.
__global__ void __launch_bounds__(256) attention_extend(float* key_cache, float* value_cache, const float* qkv,
                                                        int64_t n, int T, int H, int size, int position, int capacity) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;  // over [B,T,H,size]
  if (i >= n) return;
  const int64_t C = (int64_t)H * size, bt = i / C, c = i % C;
  const float* row = qkv + bt * 3 * C + c;
  const int64_t at = ((bt / T * H + c / size) * capacity + position + bt % T) * size + c % size;
  key_cache[at] = row[C];
  value_cache[at] = row[2 * C];
}

// ---------------------------------------------------------------- launchers

template <class S>
static void launch_queries(Stream cuda_stream, float* out, float* row_max, float* row_sum, const Attention& a,
                           int64_t B) {
  const int tiles = (a.T + S::kOwn - 1) / S::kOwn;
  const size_t floats = (S::kOwn + 2 * S::kStream) * S::kStride + S::kWeights;
  SAMEBITS_LAUNCH(attention_queries<S>, dim3(grid_of(tiles * B * a.H)), dim3(kAttentionThreads), floats * sizeof(float),
                  cuda_stream, out, row_max, row_sum, a, tiles);
}

static void queries(Stream cuda_stream, float* out, float* row_max, float* row_sum, const Attention& a, int64_t B) {
  if (a.size <= 32) {
    launch_queries<Shape<32, 4, 8, 3>>(cuda_stream, out, row_max, row_sum, a, B);
  } else if (a.size <= 64 && attention_in_small_tiles()) {
    launch_queries<Shape<64, 4, 4, 2>>(cuda_stream, out, row_max, row_sum, a, B);
  } else if (a.size <= 64) {
    launch_queries<Shape<64, 4, 8, 3>>(cuda_stream, out, row_max, row_sum, a, B);
  } else if (a.size <= 128) {
    launch_queries<Shape<128, 4, 4, 2>>(cuda_stream, out, row_max, row_sum, a, B);
  } else {
    launch_queries<Shape<256, 2, 2, 2>>(cuda_stream, out, row_max, row_sum, a, B);
  }
}

void attention_forward(Stream cuda_stream, float* out, float* row_max, float* row_sum, const float* qkv, int64_t B,
                       int64_t T, int64_t C, int64_t H) {
  if (B == 0 || T == 0) return;
  const int size = attention_head_size(C, H);
  const Rows rows{T * 3 * C, size, (int)(3 * C)};
  const bool wide = size % 4 == 0 && rows_aligned(qkv, 3 * C) && rows_aligned(out, C);
  const float scale = div(1.0f, sqrt_((float)size));
  queries(cuda_stream, out, row_max, row_sum,
          Attention{qkv, qkv + C, qkv + 2 * C, rows, rows, (int)T, 0, (int)H, size, scale, wide}, B);
}

void attention_cached(Stream cuda_stream, float* out, float* key_cache, float* value_cache, const float* qkv, int64_t B,
                      int64_t T, int64_t C, int64_t H, int64_t position, int64_t capacity) {
  if (B == 0 || T == 0) return;
  const int size = attention_head_size(C, H);
  const bool wide = size % 4 == 0 && rows_aligned(qkv, 3 * C) && rows_aligned(out, C) &&
                    rows_aligned(key_cache, size) && rows_aligned(value_cache, size);
  const Attention a{qkv,
                    key_cache,
                    value_cache,
                    Rows{T * 3 * C, size, (int)(3 * C)},
                    Rows{H * capacity * size, capacity * size, size},
                    (int)T,
                    (int)position,
                    (int)H,
                    size,
                    div(1.0f, sqrt_((float)size)),
                    wide};
  if (T < 16) {
    const int64_t rows = B * H * T, columns = position + T;
    const int tiles = (int)((columns + kScoreKeys - 1) / kScoreKeys), pieces = (size + kSumPiece - 1) / kSumPiece;
    const Scratch scores(cuda_stream, (size_t)(rows * columns) * sizeof(float));
    SAMEBITS_LAUNCH(attention_scores, dim3(grid_of(rows * tiles)), dim3(kScoreKeys), 0, cuda_stream, scores.as<float>(),
                    key_cache, value_cache, a, (int)columns, tiles);
    SAMEBITS_LAUNCH(attention_weighted, dim3(grid_of(rows * pieces)), dim3(kSumThreads),
                    (kSumStages * kSumKeys * kSumPiece + kSumWeights) * sizeof(float), cuda_stream, out,
                    scores.as<float>(), a, (int)columns, pieces);
  } else {
    const int64_t n = B * T * C;
    SAMEBITS_LAUNCH(attention_extend, dim3(blocks_for(n, 256)), dim3(256), 0, cuda_stream, key_cache, value_cache, qkv,
                    n, (int)T, (int)H, size, (int)position, (int)capacity);
    queries(cuda_stream, out, nullptr, nullptr, a, B);
  }
}

}  // namespace device
}  // namespace samebits
