// What the tiled kernels share: 16-byte groups of floats, and which lane of a warp owns which part of a tile.
#pragma once

#include "launch.h"

namespace samebits {
namespace device {

// Four floats that are loaded and stored at once; the address is a multiple of 16 bytes.
struct alignas(16) Quad {
  float x[4];
};

static __device__ __forceinline__ Quad load_quad(const float* p) { return *reinterpret_cast<const Quad*>(p); }
static __device__ __forceinline__ void store_quad(float* p, Quad q) { *reinterpret_cast<Quad*>(p) = q; }

// A row of a shared tile is this much longer than its data: rows stay 16-byte aligned, and eight threads that read or
// write 16 bytes of eight consecutive rows touch all 32 banks once.
constexpr int kPad = 4;

// A warp as kLaneRows x 32 / kLaneRows lanes. Lanes 2i and 2i + 1 own neighbours in the shorter direction, lanes i and
// i + 2 in the longer one: then of a 128-bit shared load all pairs (i, i ^ 1) or all pairs (i, i ^ 2) ask for the same
// address, and the load takes two passes instead of four.
template <int kLaneRows>
static __device__ __forceinline__ int lane_row(int lane) {
  static_assert(kLaneRows == 4 || kLaneRows == 8, "a warp is 4 x 8 or 8 x 4 lanes");
  return kLaneRows == 4 ? (lane & 1) + 2 * (lane >> 4) : (lane >> 1) & 7;
}
template <int kLaneRows>
static __device__ __forceinline__ int lane_column(int lane) {
  return kLaneRows == 4 ? (lane >> 1) & 7 : (lane & 1) + 2 * (lane >> 4);
}

// Whether rows that lie `row` floats apart may be read 16 bytes at a time.
static inline bool rows_aligned(const float* p, int64_t row) {
  return (reinterpret_cast<uintptr_t>(p) % 16 == 0) && row % 4 == 0;
}

}  // namespace device
}  // namespace samebits
