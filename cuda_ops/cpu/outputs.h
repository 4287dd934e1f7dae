// Tiles of outputs in memory, in fp32 and in digits.
//
// order: a bias is added to the finished chain by one addition.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../numerics/float.h"
#include "prefetch.h"

namespace samebits {
namespace SAMEBITS_ISA {

// f(where, stride, accumulate) computes a tile of kRows x kColumns or, with `whole`, of all that is real: m x n of it.
// What is cut off by an edge is computed beside.
template <int kRows, int kColumns, class F>
static inline __attribute__((always_inline)) void tile_of(float* out, int64_t N, int64_t m, int64_t n, bool whole,
                                                          bool accumulate, F f) {
  prefetch<true>(out, N, m, n);
  if (whole) {
    f(out, N, accumulate);
    return;
  }
  alignas(64) float edge[kRows * kColumns];
  if (accumulate) {
    memset(edge, 0, sizeof(edge));
    for (int64_t i = 0; i < m; i++) memcpy(edge + i * kColumns, out + i * N, (size_t)n * sizeof(float));
  }
  f(edge, kColumns, accumulate);
  for (int64_t i = 0; i < m; i++) memcpy(out + i * N, edge + i * kColumns, (size_t)n * sizeof(float));
}

static inline void add_bias(float* out, int64_t N, const float* bias, int64_t m, int64_t n) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) out[i * N + j] = add(out[i * N + j], bias[j]);
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
