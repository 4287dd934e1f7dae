// Which copy of the kernels runs, and on how many threads. Neither can change a bit.
#pragma once

#include "kernels.h"

namespace samebits {

// The kernels for this CPU, or for SAMEBITS_ISA if the environment names one; null if that one cannot run here.
const Kernels* kernels();
// "baseline", "v3" or "v4" (x86-64 levels), or what SAMEBITS_ISA asked for if it cannot run here.
const char* isa();

void set_threads(int count);

}  // namespace samebits
