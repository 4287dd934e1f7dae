// The tiles of matmul_digits.cu, for tests and benchmarks that force one.
#pragma once

#include "kernels.h"

namespace samebits {
namespace device {

enum MatmulDigitsTile { kLargeDigitTile = 0, kSmallDigitTile = 1 };

// The tile that matmul_digits picks: a function of the problem alone.
int matmul_digits_tile_for(int64_t M, int64_t N);

// matmul_digits of kernels.inc with a given tile: the same bits.
void matmul_digits_with_tile(Stream cuda_stream, float* out, const float* a, const float* b, const uint8_t* kept,
                             const float* bias, int64_t M, int64_t N, int64_t K, int layout, bool accumulate,
                             int digits, int64_t sequence, int tile);

}  // namespace device
}  // namespace samebits
