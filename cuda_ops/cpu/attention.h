// What both passes of attention share: where a head lies, and sums over the keys that a query sees.
#pragma once

#include <stdint.h>

#include "../numerics/float.h"
#include "chains.h"

namespace samebits {
namespace SAMEBITS_ISA {

// Queries that walk the keys together: rows of one register tile.
constexpr int kRows = 8;

struct Head {
  int64_t T, C, size;
  const float *q, *k, *v;  // rows lie 3C apart
  int64_t row;
  float scale;
};

static inline Head head_of(const float* qkv, int64_t unit, int64_t T, int64_t C, int64_t H) {
  const int64_t size = C / H, b = unit / H, h = unit % H;
  const float* base = qkv + b * T * 3 * C + h * size;
  return Head{T, C, size, base, base + C, base + 2 * C, 3 * C, div(1.0f, sqrt_((float)size))};
}

static inline int64_t padded(int64_t n) { return (n + kTileColumns - 1) / kTileColumns * kTileColumns; }

// c[i][size] += over keys of weights[i][j] rows[j] for queries first + i, i < m: the keys up to `first` for all of
// them, then each query's own last keys. Continues the chains in c.
static inline void sum_over_keys(float* c, int64_t c_row, const float* weights, int64_t weights_row, const float* rows,
                                 int64_t row, int64_t first, int64_t m, int64_t size) {
  chain_block(c, c_row, weights, weights_row, 1, rows, row, m, size, first + 1, false);
  for (int64_t i = 1; i < m; i++) {
    for (int64_t j = first + 1; j <= first + i; j++) {
      const float w = weights[i * weights_row + j];
      for (int64_t d = 0; d < size; d++) c[i * c_row + d] = fma_(w, rows[j * row + d], c[i * c_row + d]);
    }
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
