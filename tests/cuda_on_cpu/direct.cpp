// What tests reach without torch: a launcher of the table by its name, products with a given tile, the check of
// indices.
#include <string.h>

#include <exception>
#include <string>

#include "../../cuda_ops/cpu/dispatch.h"
#include "../../cuda_ops/kernels/check.h"
#include "../../cuda_ops/kernels/matmul.h"
#include "../../cuda_ops/kernels/matmul_digits.h"

// Weak, so that a library of other kernels can be linked without it.
namespace samebits {
namespace device {
__attribute__((weak)) void matmul_with_tile(Stream cuda_stream, float* out, const float* a, const float* b,
                                            const float* bias, int64_t M, int64_t N, int64_t K, int layout,
                                            bool accumulate, int tile);
__attribute__((weak)) int matmul_tile_for(int64_t M, int64_t N, int layout);
__attribute__((weak)) void matmul_digits_with_tile(Stream cuda_stream, float* out, const float* a, const float* b,
                                                   const uint8_t* kept, const float* bias, int64_t M, int64_t N,
                                                   int64_t K, int layout, bool accumulate, int digits, int64_t sequence,
                                                   int tile);
__attribute__((weak)) int matmul_digits_tile_for(int64_t M, int64_t N, int digits);
__attribute__((weak)) void check_indices(Stream stream, const int32_t* indices, int64_t n, int64_t limit,
                                         bool ascending, const char* name);
}  // namespace device
}  // namespace samebits

#define SAMEBITS_VISIBLE extern "C" __attribute__((visibility("default")))

SAMEBITS_VISIBLE const void* samebits_kernel(const char* wanted) {
#define KERNEL(name, arguments) \
  if (!strcmp(wanted, #name)) return (const void*)samebits::kernels()->name;
#include "../../cuda_ops/kernels.inc"
#undef KERNEL
  return nullptr;
}

SAMEBITS_VISIBLE void samebits_matmul_with_tile(float* out, const float* a, const float* b, const float* bias,
                                                int64_t M, int64_t N, int64_t K, int layout, bool accumulate,
                                                int tile) {
  samebits::device::matmul_with_tile(nullptr, out, a, b, bias, M, N, K, layout, accumulate, tile);
}

SAMEBITS_VISIBLE int samebits_matmul_tile_for(int64_t M, int64_t N, int layout) {
  return samebits::device::matmul_tile_for(M, N, layout);
}

// What went wrong, or an empty text.
SAMEBITS_VISIBLE const char* samebits_matmul_digits_with_tile(float* out, const float* a, const float* b,
                                                              const uint8_t* kept, const float* bias, int64_t M,
                                                              int64_t N, int64_t K, int layout, bool accumulate,
                                                              int digits, int64_t sequence, int tile) {
  static std::string message;
  message.clear();
  try {
    samebits::device::matmul_digits_with_tile(nullptr, out, a, b, kept, bias, M, N, K, layout, accumulate, digits,
                                              sequence, tile);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

SAMEBITS_VISIBLE int samebits_matmul_digits_tile_for(int64_t M, int64_t N, int digits) {
  return samebits::device::matmul_digits_tile_for(M, N, digits);
}

// Whether the device stopped.
SAMEBITS_VISIBLE bool samebits_check_indices(const int32_t* indices, int64_t n, int64_t limit, bool ascending,
                                             const char* name) {
  try {
    samebits::device::check_indices(nullptr, indices, n, limit, ascending, name);
  } catch (const std::exception&) {
    return true;
  }
  return false;
}
