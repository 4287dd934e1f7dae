// The tiles of matmul.cu, for tests and benchmarks that force one.
#pragma once

#include "kernels.h"

namespace samebits {
namespace device {

enum MatmulTile { kLargeTile = 0, kSquareTile = 1, kWideTile = 2, kSmallTile = 3, kFewRowsTile = 4 };

// The tile that matmul picks: a function of the problem alone.
int matmul_tile_for(int64_t M, int64_t N, int layout);

// matmul of kernels.inc with a given tile: the same bits.
void matmul_with_tile(Stream cuda_stream, float* out, const float* a, const float* b, const float* bias, int64_t M,
                      int64_t N, int64_t K, int layout, bool accumulate, int tile);

}  // namespace device
}  // namespace samebits
