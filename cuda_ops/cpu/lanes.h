// As many values side by side as one register has.
#pragma once

#include <stdint.h>

namespace samebits {
namespace SAMEBITS_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t LaneInts __attribute__((vector_size(4 * kLanes)));

}  // namespace SAMEBITS_ISA
}  // namespace samebits
