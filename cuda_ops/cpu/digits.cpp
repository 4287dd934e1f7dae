// Cutting the rows of a matrix into digits: a right operand that is kept, such as weights.
//
// order: no sum; the exponent of a block is that of its largest magnitude. Threads share out panels of 16 rows.
#include "cut.h"

#include "kernels.h"
#include "parallel.h"

namespace samebits {
namespace SAMEBITS_ISA {

template <int kDigits>
static void cut(uint8_t* out, const float* x, int64_t rows, int64_t K, bool transposed) {
  const Blocks blocks(K, K);
  const int64_t count = blocks.count();
  const Operand<kDigits> operand = Operand<kDigits>::in(out, panels_of(rows), count, false);
  memset(out, 0, (size_t)Operand<kDigits>::bytes(panels_of(rows), count, false));
  const Matrix matrix{x, rows, transposed, K};
  parallel_for(panels_of(rows), [=](int64_t begin, int64_t end) {
    cut_panels<kDigits, false>(operand, begin, end, matrix, 0, blocks, 0, count);
  });
}

void digits(uint8_t* out, const float* x, int64_t rows, int64_t K, bool transposed, int digits) {
  digits == 2 ? cut<2>(out, x, rows, K, transposed) : cut<1>(out, x, rows, K, transposed);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
