// The gradient norm: sums of squares of fixed-size chunks of the flat parameter space. The chunks are added by
// tree_sum.
//
// A chunk is a row of rows.h, with 128-bit loads where chunk % 4 == 0 and x is 16-byte aligned.
//
// order: a chunk is a row reduction of fma(x, x, partial) (fold_partials).
#include "rows.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    norm_partials_kernel(float* partials, const float* x, int64_t n, int64_t chunk, int64_t chunks) {
  const OwnRow<kWidth> own;
  const int64_t begin = own.row * chunk;
  const int64_t left = own.row < chunks ? n - begin : 0;
  const int size = (int)(left < chunk ? left : chunk);
  const float* const own_x = x + begin + own.first;
  Pack<kWidth> p = no_partials<kWidth>();
  const int whole = size >= own.first + kWidth ? (size - own.first - kWidth) / kPartials + 1 : 0;
#pragma unroll 8
  for (int k = 0; k < whole; k++) {  // counted in 32 bits: the loads of eight steps are asked for at once
    const Pack<kWidth> v = load<kWidth>(own_x + k * kPartials);
#pragma unroll
    for (int e = 0; e < kWidth; e++) p.x[e] = fma_(v.x[e], v.x[e], p.x[e]);
  }
#pragma unroll
  for (int e = 0; e < kWidth; e++) {  // the end of x inside a group
    const int i = whole * kPartials + e;
    if (own.first + i < size) p.x[e] = fma_(own_x[i], own_x[i], p.x[e]);
  }
  const float sum = fold_lanes<kWidth>(p);
  if (own.row < chunks && own.first == 0) partials[own.row] = sum;
}

// ---------------------------------------------------------------- launchers

void norm_partials(Stream stream, float* partials, const float* x, int64_t n, int64_t chunk) {
  const int64_t chunks = (n + chunk - 1) / chunk;
  if (chunks <= 0) return;
  if (chunk > (int64_t(1) << 30)) {
    throw std::runtime_error("norm_partials: chunk = " + std::to_string(chunk) + ": allowed is up to 2^30 on a GPU");
  }
  if (chunk % 4 == 0 && aligned(x)) {
    SAMEBITS_LAUNCH(norm_partials_kernel<4>, grid_for_rows<4>(chunks), dim3(kRowThreads), 0, stream, partials, x, n,
                    chunk, chunks);
  } else {
    SAMEBITS_LAUNCH(norm_partials_kernel<1>, grid_for_rows<1>(chunks), dim3(kRowThreads), 0, stream, partials, x, n,
                    chunk, chunks);
  }
}

}  // namespace device
}  // namespace samebits
