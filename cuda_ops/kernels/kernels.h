// Declarations of every GPU launcher: the catalogue of both backends (kernels.inc) with a stream in front. Pointers are
// to device memory; a launcher returns when its kernels are queued, and throws std::runtime_error if they cannot be.
#pragma once

#include <stdint.h>

#include "../numerics/float.h"

struct CUstream_st;

namespace samebits {
typedef CUstream_st* Stream;

namespace device {
#define SAMEBITS_UNPACK(...) __VA_ARGS__
#define KERNEL(name, arguments) void name(Stream cuda_stream, SAMEBITS_UNPACK arguments);
#include "../kernels.inc"
#undef KERNEL
}  // namespace device
}  // namespace samebits
