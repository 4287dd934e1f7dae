// Matrix products in digits (int8x3, int8x1), in three layouts.
//
// order: per output, blocks of K in ascending order, sum = join(block's exact sums, sum), from +0 or, accumulating,
// from what out holds; a bias is added to the finished chain by one addition. Blocks of K hand the chain on through
// out. Threads share out tiles of outputs. Cutting packs: both operands are panels of digits; K is padded with digits
// 0, which no sum sees.
#include "cut.h"
#include "digit_tile.h"
#include "kernels.h"
#include "outputs.h"
#include "parallel.h"
#include "scratch.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int64_t kChunk = 8;           // blocks of K at a time: a thread's rows of A stay in the second-level cache
constexpr int64_t kNearDigits = 4;      // digits of blocks of K of which a tile's panels stay in the first-level cache
constexpr int64_t kUnitRows = 96;       // rows of A that a thread cuts at once
constexpr int64_t kUnitColumns = 3072;  // columns of B that are cut at once

static thread_local Scratch left_memory, right_memory;

// One tile of out, m x n of it real.
template <class Dot, int kDigits, Layout kLayout>
static inline void tile(float* out, int64_t N, const Operand<kDigits>& a, int64_t p, int row, const Operand<kDigits>& b,
                        int64_t q, int64_t panels, int64_t m, int64_t n, int64_t first, int64_t last, const int* steps,
                        bool accumulate) {
  constexpr int kRows = Dot::kRows[kDigits - 1], kColumns = Dot::kPanels[kDigits - 1] * kPanel;
  tile_of<kRows, kColumns>(out, N, m < kRows ? m : kRows, n, m >= kRows && n == panels * kPanel, accumulate,
                           [&](float* c, int64_t stride, bool goes_on) __attribute__((always_inline)) {
                             digit_tiles<Dot, kDigits, kLayout>(c, stride, a, p, row, b, q, panels, first, last, steps,
                                                                0, goes_on);
                           });
}

// m rows of a times panels first_panel .. end_panel - 1 of b. Blocks are walked in pieces, each over all rows.
template <class Dot, int kDigits, Layout kLayout>
static void multiply_unit(float* out, int64_t N, const Operand<kDigits>& a, int64_t m, const Operand<kDigits>& b,
                          int64_t b_block, int64_t first_panel, int64_t end_panel, int64_t columns, int64_t count,
                          const int* steps, bool accumulate, const float* bias) {
  constexpr int kRows = Dot::kRows[kDigits - 1], kMost = Dot::kPanels[kDigits - 1];
  constexpr int64_t kNear = kNearDigits / kDigits;
  Operand<kDigits> from = b;  // b's blocks begin at b_block
  from.digits += b_block * kDigits * kBlockBytes;
  from.scales += b_block * kPanel;
  for (int64_t q = first_panel; q < end_panel; q += kMost) {
    const int64_t panels = end_panel - q < kMost ? end_panel - q : kMost, j = q * kPanel;
    const int64_t n = columns - j < panels * kPanel ? columns - j : panels * kPanel;
    for (int64_t c = 0; c < count; c += kNear) {
      const int64_t end = count - c < kNear ? count : c + kNear;
      for (int64_t i = 0; i < m; i += kRows) {
        tile<Dot, kDigits, kLayout>(out + i * N + j, N, a, i / kPanel, (int)(i % kPanel), from, q, panels, m - i, n, c,
                                    end, steps + c, accumulate || c > 0);
      }
    }
    if (bias) add_bias(out + j, N, bias + j, m, n);
  }
}

template <class Dot, int kDigits, Layout kLayout>
static void multiply(float* out, const Matrix& a, const Matrix& b, const uint8_t* kept, const float* bias,
                     const Blocks& blocks, bool accumulate) {
  const int64_t M = a.rows, N = b.rows, threads = thread_count(), all = blocks.count();
  const int64_t units = threads * ((M + threads * kUnitRows - 1) / (threads * kUnitRows));
  const int64_t rows = ((M + units - 1) / units + kPanel - 1) / kPanel * kPanel;
  const int64_t row_units = (M + rows - 1) / rows;
  for (int64_t j0 = 0; j0 < N; j0 += kept ? N : kUnitColumns) {
    const int64_t columns = kept || N - j0 < kUnitColumns ? N - j0 : kUnitColumns, panels = panels_of(columns);
    int64_t column_units = row_units >= threads ? 1 : (threads + row_units - 1) / row_units;
    if (column_units > panels) column_units = panels;
    for (int64_t chunk = 0; chunk < all; chunk += kChunk) {
      const int64_t count = all - chunk < kChunk ? all - chunk : kChunk;
      const bool last = chunk + count == all, continues = accumulate || chunk > 0;
      int steps[kChunk];
      for (int64_t c = 0; c < count; c++) steps[c] = (int)(blocks.length(chunk + c) + 3) / 4;
      Operand<kDigits> right;
      if (kept) {
        right = Operand<kDigits>::in((void*)kept, panels, all, false);
      } else {
        void* memory = right_memory.reserve((Operand<kDigits>::bytes(panels, count, false) + 3) / 4);
        right = Operand<kDigits>::in(memory, panels, count, false);
        parallel_for(panels, [=](int64_t begin, int64_t end) {
          cut_panels<kDigits, false>(right, begin, end, b, j0, blocks, chunk, count);
        });
      }
      parallel_for(row_units * column_units, [=, &steps](int64_t begin, int64_t end) {
        void* memory = left_memory.reserve((Operand<kDigits>::bytes(rows / kPanel, count, true) + 3) / 4);
        const Operand<kDigits> left = Operand<kDigits>::in(memory, rows / kPanel, count, true);
        for (int64_t unit = begin; unit < end; unit++) {
          const int64_t i0 = unit / column_units * rows, part = unit % column_units;
          const int64_t m = M - i0 < rows ? M - i0 : rows;
          if (part == 0 || unit == begin) {
            cut_panels<kDigits, true>(left, 0, panels_of(m), a, i0, blocks, chunk, count);
          }
          multiply_unit<Dot, kDigits, kLayout>(out + i0 * N + j0, N, left, m, right, kept ? chunk : 0,
                                               panels * part / column_units, panels * (part + 1) / column_units,
                                               columns, count, steps, continues, last && bias ? bias + j0 : nullptr);
        }
      });
    }
  }
}

void matmul_digits(float* out, const float* a, const float* b, const uint8_t* kept, const float* bias, int64_t M,
                   int64_t N, int64_t K, int layout, bool accumulate, int digits, int64_t sequence) {
  if (M == 0 || N == 0) return;
  if (K == 0) {
    if (!accumulate) memset(out, 0, (size_t)(M * N) * sizeof(float));
    if (bias) add_bias(out, N, bias, M, N);
    return;
  }
  const Matrix left{a, M, layout == 2, K}, right{b, N, layout != 0, K};
  const Blocks blocks(K, sequence);
  with_dot_product([&](auto dot) {
    typedef decltype(dot) Dot;
    const auto run = left.transposed ? digits == 2 ? multiply<Dot, 2, kFromColumns> : multiply<Dot, 1, kFromColumns>
                     : digits == 2   ? multiply<Dot, 2, kAlongRows>
                                     : multiply<Dot, 1, kAlongRows>;
    run(out, left, right, kept, bias, blocks, accumulate);
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
