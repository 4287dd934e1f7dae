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

}  // namespace device
}  // namespace samebits
