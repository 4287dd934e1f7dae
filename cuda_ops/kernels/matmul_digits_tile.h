// What the tiles of matmul_digits.cu share: their order, and the outputs that a lane holds of the matrix unit's.
//
// order: per output, blocks of K in ascending order, sum = join(block's exact sums, sum), from +0 or, accumulating,
// from what out holds; a bias is added to the finished chain by one add. A tile decides only who computes what.
#pragma once

#include "digits.h"
#include "matmul_digits.h"

namespace samebits {
namespace device {

struct DigitProduct {
  float* out;
  Operand a, b;
  const float* bias;
  int M, N;
  bool accumulate, wide;  // wide: pairs of outputs are 8-byte aligned
};

constexpr int kGroup = 8;  // tile rows that run together and share b in the L2 cache

struct TileAt {
  int m, n;
};
static __device__ __forceinline__ TileAt tile_at(int index, int tiles_m, int tiles_n) {
  const int group = index / (kGroup * tiles_n), within = index % (kGroup * tiles_n);
  const int rows = min(tiles_m - group * kGroup, kGroup);
  return TileAt{group * kGroup + within % rows, within / rows};
}

// Rows row and row + 8, columns column and column + 1, as the unit gives them: what a chain of blocks begins with.
static __device__ __forceinline__ void load_outputs(float* sum, const DigitProduct& p, int row, int column) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float* const from = p.out + (int64_t)(row + 8 * r) * p.N + column;
#pragma unroll
    for (int c = 0; c < 2; c++) sum[2 * r + c] = row + 8 * r < p.M && column + c < p.N ? from[c] : 0.0f;
  }
}

// Those, where chains end. inside: they all exist, and pairs are aligned; the same for all outputs of a tile.
static __device__ __forceinline__ void store_outputs(const DigitProduct& p, int row, int column, float* sum,
                                                     bool inside) {
  if (p.bias) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const float bias = p.bias[min(column + c, p.N - 1)];
      sum[c] = add(sum[c], bias);
      sum[2 + c] = add(sum[2 + c], bias);
    }
  }
  float* const to = p.out + (int64_t)row * p.N + column;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    if (inside) {
      store<2>(to + (int64_t)(8 * r) * p.N, Pack<2>{{sum[2 * r], sum[2 * r + 1]}});
      continue;
    }
#pragma unroll
    for (int c = 0; c < 2; c++) {
      if (row + 8 * r < p.M && column + c < p.N) to[(int64_t)(8 * r) * p.N + c] = sum[2 * r + c];
    }
  }
}

}  // namespace device
}  // namespace samebits
