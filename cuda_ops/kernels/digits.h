// Operands of products in digits, and the kernels that cut them: one pass over the values.
//
// An operand lies as on a CPU (cpu/digits.h): panels of 16 rows, [panel][block][digit][32][16][4], four digits of a row
// side by side, then scales [panel][block][16]. `flip` is 0x80808080 for a right operand, whose digits are kept with
// 128 added, and 0 for a left one. A left operand is zero beyond a short block, so what a right one holds there has no
// part in a sum.
//
// cut_rows_kernel: a matrix that is dense along k. A warp has 8 rows of a block, 4 lanes a row with 32 values each; it
// writes whole sectors. cut_columns_kernel: one that is dense along its rows. A thread has 16 values of a row, eight of
// them share a block's exponent through shared memory; a warp reads 32 neighbouring rows at once.
#pragma once

#include "mma.h"
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kPanel = 16, kSteps = kDigitBlock / 4;       // rows of a panel, words of a row in a block
constexpr int kPanelBytes = kDigitBlock * kPanel;          // of one block of a panel, for one digit
constexpr int kCutThreads = 256, kCutRows = 8, kCut = 32;  // rows of a warp; rows of a block of cut_columns_kernel

// Where blocks of K lie: they begin anew with every sequence, and a chain of K values without one is one sequence.
struct Blocks {
  int K, sequence, each;  // each: blocks of a whole sequence
  Blocks(int64_t K_, int64_t sequence_)
      : K((int)K_), sequence((int)(sequence_ < K_ && sequence_ > 0 ? sequence_ : K_)) {
    each = (sequence + kDigitBlock - 1) / kDigitBlock;
  }
  int count() const { return K == 0 ? 0 : K / sequence * each + (K % sequence + kDigitBlock - 1) / kDigitBlock; }
  __device__ __forceinline__ int first(int b) const { return b / each * sequence + b % each * kDigitBlock; }
  __device__ __forceinline__ int length(int b) const {
    const int end = min((b / each + 1) * sequence, K);
    return min(end - first(b), kDigitBlock);
  }
};

struct Operand {
  uint8_t* digits;
  float* scales;
  int blocks;
};

static inline int64_t panels_of(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

static inline int64_t operand_bytes(int64_t rows, int64_t blocks, int digits) {
  return panels_of(rows) * blocks * (digits * kPanelBytes + kPanel * (int64_t)sizeof(float));
}

static inline Operand operand_in(const void* memory, int64_t rows, int64_t blocks, int digits) {
  uint8_t* const bytes = (uint8_t*)memory;
  return Operand{bytes, (float*)(bytes + panels_of(rows) * blocks * digits * kPanelBytes), (int)blocks};
}

// The words of one step of a row; words beyond the block's values are 0, as in a buffer that was cleared.
template <int kDigits>
static __device__ __forceinline__ void store_step(uint32_t* words, int step, int steps, const float* x, float factor,
                                                  uint32_t flip) {
  uint32_t high, low;
  cut_four<kDigits>(&high, &low, x, factor);
  words[step * kPanel] = step < steps ? high ^ flip : 0;
  if (kDigits == 2) words[step * kPanel + kPanelBytes / 4] = step < steps ? low ^ flip : 0;
}

template <int kDigits, bool kWide>
static __global__ void __launch_bounds__(kCutThreads)
    cut_rows_kernel(Operand out, const float* x, int rows, Blocks blocks, uint32_t flip) {
  const int lane = (int)threadIdx.x % 32, q = lane % 4;
  const int64_t warp = (int64_t)blockIdx.x * (kCutThreads / 32) + threadIdx.x / 32;
  const int half = (int)(warp / out.blocks), b = (int)(warp % out.blocks), row = half * kCutRows + lane / 4;
  if (half >= (rows + kPanel - 1) / kPanel * 2) return;
  const int length = blocks.length(b), steps = (length + 3) / 4;
  const float* const values = x + (int64_t)row * blocks.K + blocks.first(b);
  float y[kSteps / 4][4];
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kSteps / 4; i++) {
    const int k = (4 * i + q) * 4;
    load_four(y[i], values + k, row < rows ? length - k : 0, kWide);
#pragma unroll
    for (int n = 0; n < 4; n++) largest = larger(largest, magnitude(y[i][n]));
  }
  largest = larger(largest, __shfl_xor_sync(~0u, largest, 1));
  largest = larger(largest, __shfl_xor_sync(~0u, largest, 2));
  const int e = digit_exponent(largest), panel = row / kPanel, within = row % kPanel;
  const float factor = digit_factor(e);
  const int64_t at = (int64_t)panel * out.blocks + b;
  uint32_t* const words = (uint32_t*)(out.digits + at * kDigits * kPanelBytes) + within;
#pragma unroll
  for (int i = 0; i < kSteps / 4; i++) store_step<kDigits>(words, 4 * i + q, steps, y[i], factor, flip);
  if (q == 0) out.scales[at * kPanel + within] = row < rows ? digit_scale<kDigits>(e) : 0.0f;
}

template <int kDigits>
static __global__ void __launch_bounds__(kCutThreads)
    cut_columns_kernel(Operand out, const float* x, int rows, Blocks blocks, uint32_t flip) {
  constexpr int kShare = kCutThreads / kCut, kOwn = kSteps / kShare;  // threads of a row, and their steps
  __shared__ uint32_t maxima[kShare][kCut];
  const int lane = (int)threadIdx.x % kCut, q = (int)threadIdx.x / kCut;
  const int groups = (rows + kCut - 1) / kCut, b = (int)blockIdx.x / groups;
  const int row = (int)blockIdx.x % groups * kCut + lane;
  const int length = blocks.length(b), steps = (length + 3) / 4;
  const float* const values = x + (int64_t)blocks.first(b) * rows + row;
  float y[kOwn][4];
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kOwn; i++) {
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int k = (q + kShare * i) * 4 + n;
      y[i][n] = row < rows && k < length ? values[(int64_t)k * rows] : 0.0f;
      largest = larger(largest, magnitude(y[i][n]));
    }
  }
  maxima[q][lane] = largest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kShare; i++) largest = larger(largest, maxima[i][lane]);
  if (row >= (rows + kPanel - 1) / kPanel * kPanel) return;
  const int e = digit_exponent(largest), panel = row / kPanel, within = row % kPanel;
  const float factor = digit_factor(e);
  const int64_t at = (int64_t)panel * out.blocks + b;
  uint32_t* const words = (uint32_t*)(out.digits + at * kDigits * kPanelBytes) + within;
#pragma unroll
  for (int i = 0; i < kOwn; i++) store_step<kDigits>(words, q + kShare * i, steps, y[i], factor, flip);
  if (q == 0) out.scales[at * kPanel + within] = row < rows ? digit_scale<kDigits>(e) : 0.0f;
}

// Cuts the rows of x[rows, K], or transposed of x[K, rows].
template <int kDigits>
static void cut(Stream cuda_stream, Operand out, const float* x, int64_t rows, Blocks blocks, bool transposed,
                bool right) {
  if (rows == 0 || out.blocks == 0) return;
  const uint32_t flip = right ? 0x80808080u : 0;
  const dim3 threads(kCutThreads);
  if (transposed) {
    const int64_t groups = (rows + kCut - 1) / kCut;
    SAMEBITS_LAUNCH(cut_columns_kernel<kDigits>, dim3((unsigned)(groups * out.blocks)), threads, 0, cuda_stream, out, x,
                    (int)rows, blocks, flip);
    return;
  }
  const dim3 grid(blocks_for(2 * panels_of(rows) * out.blocks, kCutThreads / 32));
  const bool wide = aligned(x) && blocks.K % 4 == 0 && blocks.sequence % 4 == 0;
  const auto kernel = wide ? cut_rows_kernel<kDigits, true> : cut_rows_kernel<kDigits, false>;
  SAMEBITS_LAUNCH(kernel, grid, threads, 0, cuda_stream, out, x, (int)rows, blocks, flip);
}

}  // namespace device
}  // namespace samebits
