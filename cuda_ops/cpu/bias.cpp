// The gradient of a bias: column sums.
//
// order: column reduction (numerics/order.h), sequences in order. Threads share out columns.
#include "column_sums.h"
#include "kernels.h"
#include "parallel.h"

namespace samebits {
namespace SAMEBITS_ISA {

void bias_backward(float* dbias, const float* dout, int64_t B, int64_t T, int64_t C) {
  parallel_for((C + kColumnBlock - 1) / kColumnBlock, B * T * kColumnBlock, [=](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) {
      const int64_t first = block * kColumnBlock;
      const int columns = (int)(C - first < kColumnBlock ? C - first : kColumnBlock);
      for (int64_t b = 0; b < B; b++) {
        const float* rows = dout + b * T * C + first;
        if (columns == kColumnBlock) {
          column_sum<kColumnBlock>(dbias + first, rows, T, C, kColumnBlock);
        } else {
          column_sum<0>(dbias + first, rows, T, C, columns);
        }
      }
    }
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
