// Column reductions over the tokens of each sequence, then sequences in order (numerics/order.h).
//
// Block (tile, b) sums 32 columns of sequence b. Thread (x, y) keeps partial y of columns kWidth x to kWidth x + kWidth
// - 1 and walks tokens y, y + 32, ...: a warp reads 128 bytes or more of a row at a time. The 32 partials of a column
// then pass through shared memory to the lanes of one warp, which fold them. With several sequences their sums go to
// scratch[B][C] and one thread per column adds them in order.
#pragma once

#include "rows.h"

namespace samebits {
namespace device {

constexpr int kTile = 32;

template <int kSums>
struct Sums {
  float* to[kSums];
};

// terms.template operator()<kWidth>(p[kSums], token, index of the first column's element)
template <int kWidth, class Terms>
__global__ void __launch_bounds__(kTile / kWidth * kPartials)
    column_sums_kernel(Sums<Terms::kSums> sums, Terms terms, int64_t T, int64_t C, bool accumulate) {
  __shared__ float partials[Terms::kSums][kPartials][kTile + 1];
  const int tiles = (int)((C + kTile - 1) / kTile);
  const int64_t b = blockIdx.x / tiles;
  const int64_t column = (int64_t)(blockIdx.x % tiles) * kTile + threadIdx.x * kWidth;

  Pack<kWidth> p[Terms::kSums];
#pragma unroll
  for (int s = 0; s < Terms::kSums; s++) p[s] = no_partials<kWidth>();
  if (column < C) {
#pragma unroll 4
    for (int64_t t = threadIdx.y; t < T; t += kPartials) {
      const int64_t token = b * T + t;
      terms.template operator()<kWidth>(p, token, token * C + column);
    }
  }
#pragma unroll
  for (int s = 0; s < Terms::kSums; s++) {
#pragma unroll
    for (int e = 0; e < kWidth; e++) partials[s][threadIdx.y][threadIdx.x * kWidth + e] = p[s].x[e];
  }
  __syncthreads();

  constexpr int kWarps = kTile / kWidth;
  const int thread = threadIdx.y * (kTile / kWidth) + threadIdx.x;
  const int lane = thread % 32;
  for (int j = thread / 32; j < kTile; j += kWarps) {
    const int64_t c = (int64_t)(blockIdx.x % tiles) * kTile + j;
#pragma unroll
    for (int s = 0; s < Terms::kSums; s++) {
      const float sum = fold_lanes<1>(Pack<1>{{partials[s][lane][j]}});
      if (lane == 0 && c < C) {
        float* to = sums.to[s] + b * C + c;
        *to = accumulate ? add(*to, sum) : sum;
      }
    }
  }
}

// accumulator[C] += scratch[0][C], then scratch[1][C], ...
template <int kSums>
__global__ void __launch_bounds__(kRowThreads)
    add_sequences_kernel(Sums<kSums> accumulators, Sums<kSums> scratch, int64_t B, int64_t C) {
  const int64_t c = (int64_t)blockIdx.x * kRowThreads + threadIdx.x;
  if (c >= C) return;
#pragma unroll
  for (int s = 0; s < kSums; s++) {
    float sum = accumulators.to[s][c];
#pragma unroll 8
    for (int64_t b = 0; b < B; b++) sum = add(sum, scratch.to[s][b * C + c]);
    accumulators.to[s][c] = sum;
  }
}

// accumulators[s][C] += column sums of B sequences of T tokens; wide: the terms' arrays are 16-byte aligned.
template <class Terms>
void column_sums(Stream stream, float* const* accumulators, const Terms& terms, int64_t B, int64_t T, int64_t C,
                 bool wide) {
  if (B <= 0 || C <= 0) return;
  Sums<Terms::kSums> to, own;
  const Scratch scratch(stream, B > 1 ? (size_t)Terms::kSums * B * C * sizeof(float) : 0);
  for (int s = 0; s < Terms::kSums; s++) {
    own.to[s] = accumulators[s];
    to.to[s] = B > 1 ? scratch.as<float>() + s * B * C : accumulators[s];
  }
  const dim3 grid(grid_of((C + kTile - 1) / kTile * B));
  if (wide && C % 4 == 0) {
    SAMEBITS_LAUNCH((column_sums_kernel<4, Terms>), grid, dim3(kTile / 4, kPartials), 0, stream, to, terms, T, C,
                    B == 1);
  } else {
    SAMEBITS_LAUNCH((column_sums_kernel<1, Terms>), grid, dim3(kTile, kPartials), 0, stream, to, terms, T, C, B == 1);
  }
  if (B > 1) {
    SAMEBITS_LAUNCH(add_sequences_kernel<Terms::kSums>, dim3(blocks_for(C, kRowThreads)), dim3(kRowThreads), 0, stream,
                    own, to, B, C);
  }
}

}  // namespace device
}  // namespace samebits
