// The tiles of matmul_digits.cu, for tests and benchmarks that force one.
#pragma once

#include "kernels.h"

namespace samebits {
namespace device {

// mma.sync from compute capability 8.0 on; wgmma on 9.0 alone (matmul_digits_wgmma.h); mma.sync in bf16 on 10.3, which
// multiplies integers at a fifteenth of that rate.
enum MatmulDigitsTile {
  kLargeDigitTile = 0,
  kSmallDigitTile = 1,
  kWgmmaTile = 2,
  kNarrowWgmmaTile = 3,
  kWideWgmmaTile = 4,  // of one digit; two have no room for it and take kWgmmaTile
  kLargeBf16Tile = 5,
  kSmallBf16Tile = 6,
};

// The tile that matmul_digits picks: a function of the problem and of the device's matrix unit alone.
int matmul_digits_tile_for(int64_t M, int64_t N, int digits);

// matmul_digits of kernels.inc with a given tile: the same bits. std::runtime_error where the device has not its unit.
void matmul_digits_with_tile(Stream cuda_stream, float* out, const float* a, const float* b, const uint8_t* kept,
                             const float* bias, int64_t M, int64_t N, int64_t K, int layout, bool accumulate,
                             int digits, int64_t sequence, int tile);

}  // namespace device
}  // namespace samebits
