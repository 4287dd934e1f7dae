// Declarations of every kernel for the instruction set being compiled, and the table that dispatch.cpp fills.
#pragma once

#include <stdint.h>

#include "../numerics/float.h"

namespace samebits {
namespace SAMEBITS_ISA {
#define KERNEL(name, arguments) void name arguments;
#include "../kernels.inc"
#undef KERNEL
}  // namespace SAMEBITS_ISA

struct Kernels {
#define KERNEL(name, arguments) void(*name) arguments;
#include "../kernels.inc"
#undef KERNEL
};

}  // namespace samebits
