// The gradient norm: sums of squares of fixed-size chunks of the flat parameter space. The chunks are added by
// tree_sum.
//
// order: a chunk is a row reduction of fma(x, x, partial) (numerics/order.h).
#include "kernels.h"
#include "parallel.h"
#include "row_sums.h"

namespace samebits {
namespace SAMEBITS_ISA {

void norm_partials(float* partials, const float* x, int64_t n, int64_t chunk) {
  parallel_for((n + chunk - 1) / chunk, chunk, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      const float* first = x + c * chunk;
      const int64_t size = n - c * chunk < chunk ? n - c * chunk : chunk;
      partials[c] = row_sum(size, [=](float p, int64_t i) { return fma_(first[i], first[i], p); });
    }
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
