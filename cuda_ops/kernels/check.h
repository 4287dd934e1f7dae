// A check of indices that runs on the device, for the bindings: kernels trust their indices.
#pragma once

#include "kernels.h"

namespace samebits {
namespace device {

// Every indices[i] in [0, limit) and, if asked, above the one before it; otherwise the first thread to see it leaves
// `name`, the element and the value for samebits_device_message(), and the device stops: every later call on it fails,
// and nothing is written with a wrong index.
void check_indices(Stream stream, const int32_t* indices, int64_t n, int64_t limit, bool ascending, const char* name);

}  // namespace device
}  // namespace samebits
