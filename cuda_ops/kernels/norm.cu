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
  const int64_t size = left < chunk ? left : chunk;
  Pack<kWidth> p = no_partials<kWidth>();
  int64_t i = own.first;
#pragma unroll 8
  for (; i + kWidth <= size; i += kPartials) {
    const Pack<kWidth> v = load<kWidth>(x + begin + i);
#pragma unroll
    for (int e = 0; e < kWidth; e++) p.x[e] = fma_(v.x[e], v.x[e], p.x[e]);
  }
#pragma unroll
  for (int e = 0; e < kWidth; e++) {  // the end of x inside a group
    if (i + e < size) p.x[e] = fma_(x[begin + i + e], x[begin + i + e], p.x[e]);
  }
  const float sum = fold_lanes<kWidth>(p);
  if (own.row < chunks && own.first == 0) partials[own.row] = sum;
}

// ---------------------------------------------------------------- launchers

void norm_partials(Stream stream, float* partials, const float* x, int64_t n, int64_t chunk) {
  const int64_t chunks = (n + chunk - 1) / chunk;
  if (chunks <= 0) return;
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
