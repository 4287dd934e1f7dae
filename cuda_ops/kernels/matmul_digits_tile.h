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
    for (int c = 0; c < 2; c++) {
      sum[2 * r + c] = p.accumulate && row + 8 * r < p.M && column + c < p.N ? from[c] : 0.0f;
    }
  }
}

static __device__ __forceinline__ void store_outputs(const DigitProduct& p, int row, int column, float* sum) {
  float bias[2] = {0.0f, 0.0f};
#pragma unroll
  for (int c = 0; c < 2; c++) {
    if (p.bias && column + c < p.N) bias[c] = p.bias[column + c];
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    if (row + 8 * r >= p.M) continue;
    float* const to = p.out + (int64_t)(row + 8 * r) * p.N + column;
    const float x = p.bias ? add(sum[2 * r], bias[0]) : sum[2 * r];
    const float y = p.bias ? add(sum[2 * r + 1], bias[1]) : sum[2 * r + 1];
    if (p.wide && column + 1 < p.N) {
      store<2>(to, Pack<2>{{x, y}});
    } else {
      if (column < p.N) to[0] = x;
      if (column + 1 < p.N) to[1] = y;
    }
  }
}

}  // namespace device
}  // namespace samebits
