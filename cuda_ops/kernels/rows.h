// Row reductions on a warp: the 32 partials of numerics/order.h are its lanes, or four to a lane.
//
// A row belongs to 32 / kWidth neighbouring lanes of a warp, so a warp holds kWidth rows. Lane l of a row keeps
// partials kWidth l to kWidth l + kWidth - 1 and walks elements 32 k + kWidth l + e, k ascending: one access of kWidth
// floats per step, neighbouring lanes next to each other. Which kWidth runs cannot be seen in the result.
#pragma once

#include "../numerics/order.h"
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kRowThreads = 128;

// The fold of order.h, p[j] += p[j + w] for w = 16, 8, 4, 2, 1; every lane of the row returns the sum. A lane adds its
// own partial and its partner's, in either order: addition commutes.
template <int kWidth>
__device__ __forceinline__ float fold_lanes(Pack<kWidth> p) {
#pragma unroll
  for (int width = kPartials / 2; width > 0; width /= 2) {
#pragma unroll
    for (int e = 0; e < (width < kWidth ? width : kWidth); e++) {
      p.x[e] = add(p.x[e], width < kWidth ? p.x[(e + width) % kWidth] : __shfl_xor_sync(~0u, p.x[e], width / kWidth));
    }
  }
  return p.x[0];
}

template <int kWidth>
__device__ __forceinline__ Pack<kWidth> no_partials() {
  Pack<kWidth> p;
#pragma unroll
  for (int e = 0; e < kWidth; e++) p.x[e] = 0.0f;
  return p;
}

// The row of this lane among rows that blocks of kRowThreads share out, and the lane's first element in it.
template <int kWidth>
struct OwnRow {
  int64_t row;
  int first;

  __device__ __forceinline__ OwnRow() {
    row = ((int64_t)blockIdx.x * kRowThreads + threadIdx.x) / (kPartials / kWidth);
    first = (int)(threadIdx.x % (kPartials / kWidth)) * kWidth;
  }
};

template <int kWidth>
dim3 grid_for_rows(int64_t rows) {
  return dim3(blocks_for(rows, kRowThreads / (kPartials / kWidth)));
}

}  // namespace device
}  // namespace samebits
