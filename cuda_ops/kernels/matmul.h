// The tiles of matmul.cu, for tests and benchmarks that force one.
#pragma once

#include "kernels.h"

namespace samebits {
namespace device {

enum MatmulTile { kLargeTile = 0, kMediumTile = 1, kSmallTile = 2, kFewRowsTile = 3 };

// The tile that matmul picks: a function of the problem alone.
int matmul_tile_for(int64_t M, int64_t N);

// matmul of kernels.inc with a given tile: the same bits.
void matmul_with_tile(Stream cuda_stream, float* out, const float* a, const float* b, const float* bias, int64_t M,
                      int64_t N, int64_t K, int layout, bool accumulate, int tile);

}  // namespace device
}  // namespace samebits
