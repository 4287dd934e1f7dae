// Declarations of every kernel for the instruction set being compiled, and the table that dispatch.cpp fills.
#pragma once

#include <stdint.h>

#include "../numerics/float.h"

namespace samebits {
namespace SAMEBITS_ISA {
#define KERNEL(name, arguments) void name arguments;
#define CPU_KERNEL KERNEL
#include "../kernels.inc"
#undef CPU_KERNEL
#undef KERNEL
}  // namespace SAMEBITS_ISA

struct Kernels {
// What only a CPU has comes last, and is null in the table of a GPU.
#define KERNEL(name, arguments) void(*name) arguments;
#define CPU_KERNEL KERNEL
#include "../kernels.inc"
#undef CPU_KERNEL
#undef KERNEL
};

}  // namespace samebits
