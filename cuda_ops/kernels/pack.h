// Loads and stores of kWidth neighbouring floats: one 128-bit access for 4, where the address allows it.
#pragma once

#include "launch.h"

namespace samebits {
namespace device {

template <int kWidth>
struct __align__(4 * kWidth) Pack {
  float x[kWidth];
};

template <int kWidth>
__device__ __forceinline__ Pack<kWidth> load(const float* p) {
  return *reinterpret_cast<const Pack<kWidth>*>(p);
}
template <int kWidth>
__device__ __forceinline__ void store(float* p, const Pack<kWidth>& v) {
  *reinterpret_cast<Pack<kWidth>*>(p) = v;
}

// Whether all addresses suit 128-bit accesses; null does.
template <class... Pointers>
bool aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15) == 0;
}

// So many blocks as a grid along x; std::runtime_error where a GPU takes fewer.
inline unsigned grid_of(int64_t blocks) {
  if (blocks > INT32_MAX) {
    throw std::runtime_error("a grid of " + std::to_string(blocks) + " blocks: allowed is up to 2147483647");
  }
  return (unsigned)blocks;
}

inline unsigned blocks_for(int64_t items, int64_t items_per_block) {
  return grid_of((items + items_per_block - 1) / items_per_block);
}

}  // namespace device
}  // namespace samebits
