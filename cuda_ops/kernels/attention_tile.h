// The parts of attention's kernels: two tiles of rows in shared memory, the products of their rows, and sums over one.
//
// A block of 128 threads *owns* kOwn rows (queries, or keys in the pass over keys) and streams tiles of kStream rows
// past them (keys, or queries). Its four warps are 4 x 8 lanes each (tile.h): a thread owns the rows row_of(r) = 16 r +
// 4 warp + lane row, pairs them with the streamed rows 8 c + lane column, and sums in the columns 32 n + 4 lane column
// + 0..3. So the weights that a warp sums with are the weights it has written: they pass through shared memory with
// __syncwarp alone. Rows are kStride = kSize + 4 floats apart. A head is `size` <= kSize wide; what lies beyond is
// never part of a chain over the head and makes columns that are dropped.
#pragma once

#include "tile.h"

namespace samebits {
namespace device {

constexpr int kAttentionThreads = 128;

template <int kSize_, int kRows_, int kColumns_, int kBlocks_>
struct Shape {
  static constexpr int kBlocks = kBlocks_;  // per multiprocessor: bounds the registers
  static constexpr int kSize = kSize_, kRows = kRows_, kColumns = kColumns_;  // per thread: rows, paired rows
  static constexpr int kOwn = 16 * kRows, kStream = 8 * kColumns;
  static constexpr int kStride = kSize + kPad, kWeightStride = kStream + kPad;
  // Floats between the weights of a thread's rows r and r + 1: half of the banks further, so that eight threads which
  // read 16 bytes of eight rows of two r touch all banks once.
  static constexpr int kWeightBlock = 16 * kWeightStride + 16, kWeights = kRows * kWeightBlock;
  static constexpr int kParts = kSize / 32;  // quads of columns per thread
};

// Copies rows first, first + 1, ... of a matrix into shared memory; rows after `last` repeat it.
template <int kCount, int kSize>
static __device__ __forceinline__ void copy_rows(float* shared, const float* rows, int row, int first, int last,
                                                 int size, bool wide) {
  if (wide) {
    constexpr int kAcross = kSize / 4, kStep = kAttentionThreads / kAcross;
    const int d = (int)threadIdx.x % kAcross * 4;
    int r = (int)threadIdx.x / kAcross;
    if (d >= size) return;
#pragma unroll 4
    for (int i = 0; i < kCount / kStep; i++, r += kStep) {
      const int source = first + r < last ? first + r : last;
      copy_async<16>(shared + r * (kSize + kPad) + d, rows + (int64_t)source * row + d);
    }
  } else {
#pragma unroll 1
    for (int at = (int)threadIdx.x; at < kCount * kSize; at += kAttentionThreads) {
      const int r = at / kSize, d = at % kSize, source = first + r < last ? first + r : last;
      if (d < size) copy_async<4>(shared + r * (kSize + kPad) + d, rows + (int64_t)source * row + d);
    }
  }
}

// s[r][c] = chain over d of own row r times streamed row c. own and streamed point at the thread's first rows.
template <class S>
static __device__ __forceinline__ void products(float (&s)[S::kRows][S::kColumns], const float* own,
                                                const float* streamed, int size) {
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
#pragma unroll
    for (int c = 0; c < S::kColumns; c++) s[r][c] = 0.0f;
  }
  int d = 0;
#pragma unroll 2
  for (; d + 4 <= size; d += 4) {
    Quad x[S::kRows], y[S::kColumns];
#pragma unroll
    for (int r = 0; r < S::kRows; r++) x[r] = load_quad(own + r * 16 * S::kStride + d);
#pragma unroll
    for (int c = 0; c < S::kColumns; c++) y[c] = load_quad(streamed + c * 8 * S::kStride + d);
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
      for (int r = 0; r < S::kRows; r++) {
#pragma unroll
        for (int c = 0; c < S::kColumns; c++) s[r][c] = fma_(x[r].x[k], y[c].x[k], s[r][c]);
      }
    }
  }
#pragma unroll 1
  for (; d < size; d++) {
#pragma unroll
    for (int r = 0; r < S::kRows; r++) {
#pragma unroll
      for (int c = 0; c < S::kColumns; c++) {
        s[r][c] = fma_(own[r * 16 * S::kStride + d], streamed[c * 8 * S::kStride + d], s[r][c]);
      }
    }
  }
}

// Writes the thread's weights where its warp reads them. weights points at the thread's first row and its lane column.
template <class S>
static __device__ __forceinline__ void share(float* weights, const float (&w)[S::kRows][S::kColumns]) {
  __syncwarp();  // the warp has read what lay there
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
#pragma unroll
    for (int c = 0; c < S::kColumns; c++) weights[r * S::kWeightBlock + c * 8] = w[r][c];
  }
  __syncwarp();
}

// sum[r][n] continues its chain over the streamed rows j, ascending, of weight[r][j] rows[j][n]; masked, over
// first[r] <= j < end[r] alone. weights points at the thread's first row, rows at its first column. also(j, masked)
// runs beside it for j = 0, 4, 8, ...
template <class S, bool kMasked, class Also>
static __device__ __forceinline__ void sum_rows_as(float (&sum)[S::kRows][4 * S::kParts], const float* weights,
                                                   const float* rows, const int (&first)[S::kRows],
                                                   const int (&end)[S::kRows], Also also) {
#pragma unroll 1
  for (int j = 0; j < S::kStream; j += 4) {
    Quad w[S::kRows];
#pragma unroll
    for (int r = 0; r < S::kRows; r++) w[r] = load_quad(weights + r * S::kWeightBlock + j);
    also(j);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      Quad y[S::kParts];
#pragma unroll
      for (int n = 0; n < S::kParts; n++) y[n] = load_quad(rows + (j + k) * S::kStride + n * 32);
#pragma unroll
      for (int r = 0; r < S::kRows; r++) {
        if (kMasked && !(j + k >= first[r] && j + k < end[r])) continue;
#pragma unroll
        for (int n = 0; n < 4 * S::kParts; n++) sum[r][n] = fma_(w[r].x[k], y[n / 4].x[n % 4], sum[r][n]);
      }
    }
  }
}

// Writes sum to the rows own_row + 16 r < count of a matrix, columns below size. target: its row 0.
template <class S>
static __device__ __forceinline__ void store_rows(float* target, int row, int own_row, int lane_column, int count,
                                                  int size, bool wide, const float (&sum)[S::kRows][4 * S::kParts]) {
#pragma unroll
  for (int r = 0; r < S::kRows; r++) {
    if (own_row + 16 * r >= count) continue;
#pragma unroll
    for (int n = 0; n < S::kParts; n++) {
      float* at = target + (int64_t)(own_row + 16 * r) * row + n * 32 + lane_column * 4;
      Quad q;
#pragma unroll
      for (int c = 0; c < 4; c++) q.x[c] = sum[r][4 * n + c];
      const int left = size - (n * 32 + lane_column * 4);
      if (wide) {
        if (left > 0) store_quad(at, q);
      } else {
#pragma unroll
        for (int c = 0; c < 4; c++) {
          if (c < left) at[c] = q.x[c];
        }
      }
    }
  }
}

// Cards with 100 KiB of shared memory per multiprocessor hold one block of the tiles for heads of 64, and two of
// smaller ones: there, tiles of 32 streamed rows. Which tile runs cannot be seen in the result.
static inline bool attention_in_small_tiles() { return device_attribute(kSharedPerProcessor) < 160 * 1024; }

static inline int attention_head_size(int64_t C, int64_t H) {
  if (C / H > 256) {
    throw std::runtime_error("attention: head size " + std::to_string(C / H) + ": allowed is up to 256 on a GPU");
  }
  return (int)(C / H);
}

}  // namespace device
}  // namespace samebits
