// What the bindings need of a GPU backend. A library that has one registers it (cuda.cpp); a CPU library does
// not contain that file, and the pointer stays null.
#pragma once

#include <stdint.h>

#include "../cpu/kernels.h"

namespace samebits {

struct DeviceBackend {
  // The launchers with the current stream of the current device filled in.
  const Kernels* kernels;
  // Compute capabilities whose machine code the library holds, as in "80,86,90a".
  const char* archs;
  // Throws if this library cannot run on that GPU.
  void (*check_usable)(int device);
  // Queues a check of indices[n], each in [0, limit), or if asked ascending and distinct and then -1 from some place
  // on. A wrong one stops the device: it prints name, element and value, and every later call fails.
  void (*check_indices)(const int32_t* indices, int64_t n, int64_t limit, bool ascending, const char* name);
};

const DeviceBackend* device_backend();
void register_device_backend(const DeviceBackend* backend);

}  // namespace samebits
