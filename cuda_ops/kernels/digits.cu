// Cutting the rows of a matrix into digits: a right operand that is kept, such as weights. Kernels: digits.h.
//
// order: no sum; the exponent of a block is that of its largest magnitude.
#include "digits.h"

namespace samebits {
namespace device {

void digits(Stream cuda_stream, uint8_t* out, const float* x, int64_t rows, int64_t K, bool transposed, int digits) {
  const Blocks blocks(K, K);
  const Operand operand = operand_in(out, rows, blocks.count(), digits);
  const auto run = digits == 2 ? cut<2> : cut<1>;
  run(cuda_stream, operand, x, rows, blocks, transposed);
}

}  // namespace device
}  // namespace samebits
