// Matrix products in three layouts.
//
// order: each output is one chain over k ascending, sum = fma(a, b, sum), from +0 or, accumulating, from what out
// holds; a bias is added to the finished chain by one addition. Blocks of K hand the chain on through out. Threads
// share out tiles of outputs. Both operands are packed into panels; only M and N are padded there, never K.
#include <string.h>

#include "chains.h"
#include "kernels.h"
#include "parallel.h"
#include "scratch.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kBlockK = 384;
constexpr int kBlockM = 96;
constexpr int kBlockN = 3072;

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
  // A few columns at a time: whole cache lines are read once while the lines written stay near.
  for (int64_t k0 = 0; k0 < K; k0 += 16) {
    const int64_t k1 = k0 + 16 < K ? k0 + 16 : K;
    for (int j = 0; j < kTileColumns; j++) {
      const float* source = b + (j < columns ? j : columns - 1) * step;
      for (int64_t k = k0; k < k1; k++) out[k * kTileColumns + j] = source[k * row];
    }
  }
}

// One tile of out; m and n of it are real.
static inline void tile(float* out, int64_t N, const float* a, const float* b, int64_t m, int64_t n, int64_t K,
                        bool accumulate) {
  if (m == kTileRows && n == kTileColumns) {
    chain_tile<kTileRows, kTileVecs>(out, N, a, 1, kTileRows, b, kTileColumns, K, accumulate);
    return;
  }
  alignas(64) float edge[kTileRows * kTileColumns];
  memset(edge, 0, sizeof(edge));
  if (accumulate) {
    for (int64_t i = 0; i < m; i++) memcpy(edge + i * kTileColumns, out + i * N, (size_t)n * sizeof(float));
  }
  chain_tile<kTileRows, kTileVecs>(edge, kTileColumns, a, 1, kTileRows, b, kTileColumns, K, true);
  for (int64_t i = 0; i < m; i++) memcpy(out + i * N, edge + i * kTileColumns, (size_t)n * sizeof(float));
}

static inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

void matmul(float* out, const float* a, const float* b, const float* bias, int64_t M, int64_t N, int64_t K, int layout,
            bool accumulate) {
  if (M == 0 || N == 0) return;
  const bool a_transposed = layout == 2, b_transposed = layout == 0;
  const int64_t a_row = a_transposed ? 1 : K, a_step = a_transposed ? M : 1;
  const int64_t b_row = b_transposed ? 1 : N, b_step = b_transposed ? K : 1;
  if (K == 0 && !accumulate) memset(out, 0, (size_t)(M * N) * sizeof(float));

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
      parallel_for(panels, [=](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; p++) {
          const int64_t j = j0 + p * kTileColumns;
          pack_b_panel(shared_b + p * kTileColumns * block_k, b + k0 * b_row + j * b_step, b_row, b_step, N - j,
                       block_k);
        }
      });
      parallel_for(row_units * column_units, [=](int64_t begin, int64_t end) {
        float* own_a = packed_a.reserve(rows * (block_k > 0 ? block_k : 1));
        for (int64_t unit = begin; unit < end; unit++) {
          const int64_t i0 = unit / column_units * rows, part = unit % column_units;
          const int64_t m = M - i0 < rows ? M - i0 : rows;
          if (part == 0 || unit == begin) {
            pack_a(own_a, a + i0 * a_row + k0 * a_step, a_row, a_step, m, block_k);
          }
          const int64_t first = panels * part / column_units, end_panel = panels * (part + 1) / column_units;
          for (int64_t p = first; p < end_panel; p++) {
            const int64_t j = j0 + p * kTileColumns;
            const int64_t n = N - j < kTileColumns ? N - j : kTileColumns;
            for (int64_t i = 0; i < m; i += kTileRows) {
              float* tile_out = out + (i0 + i) * N + j;
              const int64_t tile_m = m - i < kTileRows ? m - i : kTileRows;
              tile(tile_out, N, own_a + i * block_k, shared_b + p * kTileColumns * block_k, tile_m, n, block_k,
                   continues);
              if (last && bias) {
                for (int64_t r = 0; r < tile_m; r++) {
                  for (int64_t c = 0; c < n; c++) tile_out[r * N + c] = add(tile_out[r * N + c], bias[j + c]);
                }
              }
            }
          }
        }
      });
      if (K == 0) break;
    }
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
