// Causal multi-head attention (Vaswani et al. 2017, section 3.2): forward, and decoding against a KV cache.
//
// attention_queries: blockIdx.x counts the sequences and heads, fastest, and the tiles of kOwn queries, from the last
// and longest; a block owns one tile and streams tiles of keys and values past it (attention_tile.h): once for the
// exact maxima, once for exponentials and sums. Scores live in registers; nothing T x T is ever stored. Products are
// made again in the second pass: that costs a third of the arithmetic and buys exact maxima without rescaling.
// attention_few_queries (decoding): a block is one query of one head; threads take keys, then columns of the output.
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
  const int total_row = lane % (4 * S::kRows) / 4 * 16 + warp * 4 + lane % 4;
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
    const float* total_weights = weights + total_row * S::kWeightStride;
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

// A block is one query: blockIdx.x counts B, H, T with T fastest. Two columns of the output per thread.
__global__ void __launch_bounds__(kAttentionThreads) attention_few_queries(float* out, Attention a) {
  __shared__ float query[256], weights[kAttentionThreads], maxima[kAttentionThreads / 32];
  const int thread = (int)threadIdx.x, size = a.size;
  const int t = (int)blockIdx.x % a.T, unit = (int)blockIdx.x / a.T, b = unit / a.H, h = unit % a.H;
  const float* q = a.q + b * a.queries.batch + h * a.queries.head + (int64_t)t * a.queries.row;
  const float* k = a.k + b * a.keys.batch + h * a.keys.head;
  const float* v = a.v + b * a.keys.batch + h * a.keys.head;
  const int count = a.position + t + 1;
  for (int d = thread; d < size; d += kAttentionThreads) query[d] = q[d];
  __syncthreads();

  const auto score = [&](int j) {
    const float* key = k + (int64_t)j * a.keys.row;
    float s = 0.0f;
    int d = 0;
    if (a.wide) {
#pragma unroll 4
      for (; d < size; d += 4) {
        const Quad x = load_quad(key + d);
#pragma unroll
        for (int c = 0; c < 4; c++) s = fma_(query[d + c], x.x[c], s);
      }
    }
    for (; d < size; d++) s = fma_(query[d], key[d], s);
    return mul(s, a.scale);
  };
  float largest = from_bits(0xff800000u);
  for (int j = thread; j < count; j += kAttentionThreads) largest = max_(largest, score(j));
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) largest = max_(largest, __shfl_xor_sync(~0u, largest, bit));
  if (thread % 32 == 0) maxima[thread / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kAttentionThreads / 32; w++) largest = max_(largest, maxima[w]);

  float total = 0.0f, sum[2] = {0.0f, 0.0f};  // every thread walks the total: it reads the weights anyhow
  for (int j0 = 0; j0 < count; j0 += kAttentionThreads) {
    const int keys = count - j0 < kAttentionThreads ? count - j0 : kAttentionThreads;
    if (thread < keys) weights[thread] = exp_(sub(score(j0 + thread), largest));
    __syncthreads();
#pragma unroll 8
    for (int j = 0; j < keys; j++) {
      total = add(total, weights[j]);
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const int d = thread + n * kAttentionThreads;
        if (d < size) sum[n] = fma_(weights[j], v[(int64_t)(j0 + j) * a.keys.row + d], sum[n]);
      }
    }
    __syncthreads();
  }
  const float inverse = div(1.0f, total);
#pragma unroll
  for (int n = 0; n < 2; n++) {
    const int d = thread + n * kAttentionThreads;
    if (d < size) out[((int64_t)b * a.T + t) * a.H * size + (int64_t)h * size + d] = mul(sum[n], inverse);
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
  const size_t floats = (S::kOwn + 2 * S::kStream) * S::kStride + S::kOwn * S::kWeightStride;
  SAMEBITS_LAUNCH(attention_queries<S>, dim3((unsigned)(tiles * B * a.H)), dim3(kAttentionThreads),
                  floats * sizeof(float), cuda_stream, out, row_max, row_sum, a, tiles);
}

static void queries(Stream cuda_stream, float* out, float* row_max, float* row_sum, const Attention& a, int64_t B) {
  if (a.size <= 32) {
    launch_queries<Shape<32, 4, 8, 3>>(cuda_stream, out, row_max, row_sum, a, B);
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
  const int64_t n = B * T * C;
  SAMEBITS_LAUNCH(attention_extend, dim3((unsigned)((n + 255) / 256)), dim3(256), 0, cuda_stream, key_cache,
                  value_cache, qkv, n, (int)T, (int)H, size, (int)position, (int)capacity);
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
    SAMEBITS_LAUNCH(attention_few_queries, dim3((unsigned)(B * H * T)), dim3(kAttentionThreads), 0, cuda_stream, out,
                    a);
  } else {
    queries(cuda_stream, out, nullptr, nullptr, a, B);
  }
}

}  // namespace device
}  // namespace samebits
