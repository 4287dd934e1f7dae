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
  parallel_for(panels_of(rows), [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      const int64_t first = p * kPanel, m = rows - first < kPanel ? rows - first : kPanel;
      for (int64_t b = 0; b < count; b++) {
        const int64_t k = blocks.first(b), length = blocks.length(b);
        if (transposed) {
          cut_columns<kDigits, false>(operand, p, b, x + k * rows + first, rows, m, length, nullptr, nullptr);
        } else {
          cut_rows<kDigits, false>(operand, p, b, x + first * K + k, K, m, length, nullptr);
        }
      }
    }
  });
}

void digits(uint8_t* out, const float* x, int64_t rows, int64_t K, bool transposed, int digits) {
  digits == 2 ? cut<2>(out, x, rows, K, transposed) : cut<1>(out, x, rows, K, transposed);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
