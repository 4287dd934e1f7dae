// Transposing blocks of a matrix: moves values, computes nothing.
#pragma once

#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../numerics/float.h"

namespace samebits {
namespace SAMEBITS_ISA {

// out[c * out_row + r] = in[r * in_row + c] for r < 8, c < 8
static inline __attribute__((always_inline)) void transpose_8x8(float* out, int64_t out_row, const float* in,
                                                                int64_t in_row) {
#if defined(__AVX2__)
  __m256 row[8], pair[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) row[i] = _mm256_loadu_ps(in + i * in_row);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    row[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    row[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    row[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    row[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(out + i * out_row, _mm256_permute2f128_ps(row[i], row[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * out_row, _mm256_permute2f128_ps(row[i], row[i + 4], 0x31));
  }
#else
  for (int r = 0; r < 8; r++) {
    for (int c = 0; c < 8; c++) out[c * out_row + r] = in[r * in_row + c];
  }
#endif
}

// out[c * out_row + r] = in[r * in_row + c] for r < rows, c < columns
static inline void transpose(float* out, int64_t out_row, const float* in, int64_t in_row, int64_t rows,
                             int64_t columns) {
  const int64_t rows8 = rows / 8 * 8, columns8 = columns / 8 * 8;
  for (int64_t c = 0; c < columns8; c += 8) {
    for (int64_t r = 0; r < rows8; r += 8) transpose_8x8(out + c * out_row + r, out_row, in + r * in_row + c, in_row);
    for (int64_t r = rows8; r < rows; r++) {
      for (int64_t i = c; i < c + 8; i++) out[i * out_row + r] = in[r * in_row + i];
    }
  }
  for (int64_t c = columns8; c < columns; c++) {
    for (int64_t r = 0; r < rows; r++) out[c * out_row + r] = in[r * in_row + c];
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
