// Matrix products in three layouts.
//
// order: each output is one chain over k ascending, sum = fma(a, b, sum), from +0 or, accumulating, from what out
// holds; a bias is added to the finished chain by one addition. Blocks of K hand the chain on through out. Threads
// share out tiles of outputs. Both operands are packed into panels; only M and N are padded there, never K.
#include <string.h>

#include "chains.h"
#include "kernels.h"
#include "outputs.h"
#include "parallel.h"
#include "scratch.h"
#include "transpose.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kBlockK = 384;
constexpr int kNearK = 192;  // of which a panel of B stays in the first-level cache
constexpr int kBlockM = 96;
constexpr int kBlockN = 3072;
constexpr int64_t kSmallA = 1 << 18;  // elements of A that stay in the second-level cache

static thread_local Scratch packed_a, packed_b;

// A panel is [k][kTileRows]. a(i, k) = a[i * row + k * step]; rows beyond M repeat the last (their outputs are
// dropped).
static inline void pack_a(float* out, const float* a, int64_t row, int64_t step, int64_t M, int64_t K) {
  for (int64_t i0 = 0; i0 < M; i0 += kTileRows, out += K * kTileRows) {
    if (row == 1 && i0 + kTileRows <= M) {
      for (int64_t k = 0; k < K; k++) {
        for (int r = 0; r < kTileRows; r++) out[k * kTileRows + r] = a[i0 + r + k * step];
      }
      continue;
    }
    if (step == 1 && i0 + kTileRows <= M) {
      transpose(out, kTileRows, a + i0 * row, row, kTileRows, K);
      continue;
    }
    for (int r = 0; r < kTileRows; r++) {
      const float* source = a + (i0 + r < M ? i0 + r : M - 1) * row;
      for (int64_t k = 0; k < K; k++) out[k * kTileRows + r] = source[k * step];
    }
  }
}

// A panel is [k][kTileColumns]. b(k, j) = b[k * row + j * step].
static inline void pack_b_panel(float* out, const float* b, int64_t row, int64_t step, int64_t N, int64_t K) {
  const int64_t columns = N < kTileColumns ? N : kTileColumns;
  if (step == 1 && columns == kTileColumns) {
    for (int64_t k = 0; k < K; k++) memcpy(out + k * kTileColumns, b + k * row, kTileColumns * sizeof(float));
    return;
  }
  if (row == 1 && columns == kTileColumns) {
    transpose(out, kTileColumns, b, step, kTileColumns, K);
    return;
  }
  for (int64_t k = 0; k < K; k++) {
    for (int j = 0; j < kTileColumns; j++) {
      out[k * kTileColumns + j] = b[k * row + (j < columns ? j : columns - 1) * step];
    }
  }
}

// One tile of out; m and n of it are real.
static inline void tile(float* out, int64_t N, const float* a, const float* b, int64_t m, int64_t n, int64_t K,
                        bool accumulate) {
  tile_of<kTileRows, kTileColumns>(out, N, m, n, m == kTileRows && n == kTileColumns, accumulate,
                                   [=](float* c, int64_t stride, bool goes_on) __attribute__((always_inline)) {
                                     chain_tile<kTileRows, kTileVecs>(c, stride, a, 1, kTileRows, b, kTileColumns, K,
                                                                      goes_on);
                                   });
}

static inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// Where an operand's element (row, k) or (k, column) lies.
struct Strides {
  int64_t row, step;
};

// A small A, as in decoding: each thread keeps all of it packed, and packs a panel of B just before using it, so that B
// is read once and never written back to memory.
static void matmul_small_a(float* out, const float* a, const float* b, const float* bias, int64_t M, int64_t N,
                           int64_t K, Strides sa, Strides sb, bool accumulate) {
  parallel_for(
      (N + kTileColumns - 1) / kTileColumns, (M / kProducts + 1) * K * kTileColumns, [=](int64_t begin, int64_t end) {
        float* own_a = packed_a.reserve(round_up(M, kTileRows) * K);
        float* own_b = packed_b.reserve(kBlockK * kTileColumns);
        pack_a(own_a, a, sa.row, sa.step, M, K);
        for (int64_t p = begin; p < end; p++) {
          const int64_t j = p * kTileColumns, n = N - j < kTileColumns ? N - j : kTileColumns;
          for (int64_t k0 = 0; k0 < K; k0 += kBlockK) {
            const int64_t block_k = K - k0 < kBlockK ? K - k0 : kBlockK;
            pack_b_panel(own_b, b + k0 * sb.row + j * sb.step, sb.row, sb.step, n, block_k);
            for (int64_t i = 0; i < M; i += kTileRows) {
              const int64_t m = M - i < kTileRows ? M - i : kTileRows;
              tile(out + i * N + j, N, own_a + i * K + k0 * kTileRows, own_b, m, n, block_k, accumulate || k0 > 0);
            }
          }
          if (bias) add_bias(out + j, N, bias + j, M, n);
        }
      });
}

// m packed rows of A times panels first .. end - 1 of the packed B, `columns` of whose columns are real. K is walked in
// pieces, each over all rows; without K once.
static inline void multiply_unit(float* out, int64_t N, const float* a, int64_t m, const float* b, int64_t first,
                                 int64_t end, int64_t columns, int64_t K, bool accumulate, const float* bias) {
  for (int64_t p = first; p < end; p++) {
    const int64_t j = p * kTileColumns, n = columns - j < kTileColumns ? columns - j : kTileColumns;
    for (int64_t k0 = 0; k0 < K || k0 == 0; k0 += kNearK) {
      const int64_t near = K - k0 < kNearK ? K - k0 : kNearK;
      for (int64_t i = 0; i < m; i += kTileRows) {
        tile(out + i * N + j, N, a + i * K + k0 * kTileRows, b + (p * K + k0) * kTileColumns,
             m - i < kTileRows ? m - i : kTileRows, n, near, accumulate || k0 > 0);
      }
    }
    if (bias) add_bias(out + j, N, bias + j, m, n);
  }
}

void matmul(float* out, const float* a, const float* b, const float* bias, int64_t M, int64_t N, int64_t K, int layout,
            bool accumulate) {
  if (M == 0 || N == 0) return;
  const bool a_transposed = layout == 2, b_transposed = layout == 0;
  const int64_t a_row = a_transposed ? 1 : K, a_step = a_transposed ? M : 1;
  const int64_t b_row = b_transposed ? 1 : N, b_step = b_transposed ? K : 1;
  if (K == 0 && !accumulate) memset(out, 0, (size_t)(M * N) * sizeof(float));
  if (M * K <= kSmallA && K > 0) {
    matmul_small_a(out, a, b, bias, M, N, K, {a_row, a_step}, {b_row, b_step}, accumulate);
    return;
  }

  // Rows per unit of work: small enough that every thread gets some, then columns are split as well.
  const int64_t threads = thread_count();
  const int64_t blocks = threads * ((M + threads * kBlockM - 1) / (threads * kBlockM));
  const int64_t rows = round_up((M + blocks - 1) / blocks, kTileRows);
  const int64_t row_units = (M + rows - 1) / rows;

  for (int64_t j0 = 0; j0 < N; j0 += kBlockN) {
    const int64_t block_n = N - j0 < kBlockN ? N - j0 : kBlockN;
    const int64_t panels = (block_n + kTileColumns - 1) / kTileColumns;
    int64_t column_units = row_units >= threads ? 1 : (threads + row_units - 1) / row_units;
    if (column_units > panels) column_units = panels;
    for (int64_t k0 = 0; k0 < K || (k0 == 0 && K == 0); k0 += kBlockK) {
      const int64_t block_k = K - k0 < kBlockK ? K - k0 : kBlockK;
      const bool last = k0 + block_k >= K, continues = accumulate || k0 > 0;
      float* shared_b =
          packed_b.reserve(round_up(kBlockN < N ? kBlockN : N, kTileColumns) * (K < kBlockK ? K : kBlockK) + 16);
      parallel_for(panels, block_k * kTileColumns + 1, [=](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; p++) {
          const int64_t j = j0 + p * kTileColumns;
          pack_b_panel(shared_b + p * kTileColumns * block_k, b + k0 * b_row + j * b_step, b_row, b_step, N - j,
                       block_k);
        }
      });
      parallel_for(row_units * column_units, rows * block_n * block_k / (column_units * kProducts) + 1,
                   [=](int64_t begin, int64_t end) {
                     float* own_a = packed_a.reserve(rows * (block_k > 0 ? block_k : 1));
                     for (int64_t unit = begin; unit < end; unit++) {
                       const int64_t i0 = unit / column_units * rows, part = unit % column_units;
                       const int64_t m = M - i0 < rows ? M - i0 : rows;
                       if (part == 0 || unit == begin) {
                         pack_a(own_a, a + i0 * a_row + k0 * a_step, a_row, a_step, m, block_k);
                       }
                       multiply_unit(out + i0 * N + j0, N, own_a, m, shared_b, panels * part / column_units,
                                     panels * (part + 1) / column_units, block_n, block_k, continues,
                                     last && bias ? bias + j0 : nullptr);
                     }
                   });
      if (K == 0) break;
    }
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
