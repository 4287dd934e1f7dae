// Operands of products in digits, and the kernels that cut them: one pass over the values.
//
// An operand lies as the matrix unit reads it: [block][digit][group of 8 rows][8 chunks of 16 values][8 rows][16], so
// that any rows of a block and digit are contiguous and 8 rows of a chunk are 128 bytes, all banks of shared memory
// once; then scales [block][row]. Rows are rounded up to 16; beyond a short block every digit is 0.
//
// cut_rows_kernel: a matrix that is dense along k. A warp has 8 rows of a block, 4 lanes a row with 32 values each; it
// writes 128 bytes at a time. cut_columns_kernel: one that is dense along its rows. A thread has 16 values of a row,
// eight of them share a block's exponent through shared memory; a warp reads 32 neighbouring rows at once.
//
// Rows, K and all that counts them fit into an int (bindings/digits.h: 2^30 of each); bytes and elements do not.
#pragma once

#include "mma.h"
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kGroupRows = 8, kChunk = 16;             // of the matrix unit: rows side by side, values of a row
constexpr int kGroupBytes = kDigitBlock * kGroupRows;  // of a block, for one digit
constexpr int kSteps = kDigitBlock / 4;                // words of a row in a block
constexpr int kCutThreads = 256, kCutWide = 32;        // rows side by side of a block of cut_columns_kernel

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
  int blocks, groups;

  // A digit of a block: its first group.
  __device__ __forceinline__ uint8_t* digit(int block, int digit, int digits_) const {
    return digits + ((int64_t)block * digits_ + digit) * groups * kGroupBytes;
  }
  __device__ __forceinline__ float* scale(int block) const { return scales + (int64_t)block * groups * kGroupRows; }
};

static inline int64_t groups_of(int64_t rows) { return (rows + 15) / 16 * 2; }

static inline int64_t operand_bytes(int64_t rows, int64_t blocks, int digits) {
  return groups_of(rows) * blocks * (digits * kGroupBytes + kGroupRows * (int64_t)sizeof(float));
}

static inline Operand operand_in(const void* memory, int64_t rows, int64_t blocks, int digits) {
  uint8_t* const bytes = (uint8_t*)memory;
  const int64_t groups = groups_of(rows);
  return Operand{bytes, (float*)(bytes + groups * blocks * digits * kGroupBytes), (int)blocks, (int)groups};
}

template <int kDigits, bool kWide>
static __global__ void __launch_bounds__(kCutThreads)
    cut_rows_kernel(Operand out, const float* x, int rows, Blocks blocks) {
  const int lane = (int)threadIdx.x % 32, q = lane % 4;
  const int64_t warp = (int64_t)blockIdx.x * (kCutThreads / 32) + threadIdx.x / 32;
  const int group = (int)(warp / out.blocks), b = (int)(warp % out.blocks), row = group * kGroupRows + lane / 4;
  if (group >= out.groups) return;
  const int length = blocks.length(b);
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
  const int e = digit_exponent(largest);
  const float factor = digit_factor(e);
  uint8_t* const to = out.digit(b, 0, kDigits) + (int64_t)group * kGroupBytes + lane * 4;
#pragma unroll
  for (int i = 0; i < kSteps / 4; i++) {
    uint32_t high, low;
    cut_four<kDigits>(&high, &low, y[i], factor);
    *(uint32_t*)(to + i * kGroupRows * kChunk) = high;
    if (kDigits == 2) *(uint32_t*)(to + i * kGroupRows * kChunk + (int64_t)out.groups * kGroupBytes) = low;
  }
  if (q == 0) out.scale(b)[row] = row < rows ? digit_scale<kDigits>(e) : 0.0f;
}

template <int kDigits>
static __global__ void __launch_bounds__(kCutThreads)
    cut_columns_kernel(Operand out, const float* x, int rows, Blocks blocks) {
  static_assert(kDigitBlock / kChunk == kCutThreads / kCutWide, "a thread has a chunk of a row");
  __shared__ uint32_t maxima[kDigitBlock / kChunk][kCutWide];
  const int lane = (int)threadIdx.x % kCutWide, chunk = (int)threadIdx.x / kCutWide;
  const int wide = (rows + kCutWide - 1) / kCutWide, b = (int)blockIdx.x / wide;
  const int row = (int)blockIdx.x % wide * kCutWide + lane;
  const int length = blocks.length(b);
  const float* const values = x + (int64_t)blocks.first(b) * rows + row;
  float y[kChunk];
  uint32_t largest = 0;
#pragma unroll
  for (int n = 0; n < kChunk; n++) {
    const int k = chunk * kChunk + n;
    y[n] = row < rows && k < length ? values[(int64_t)k * rows] : 0.0f;
    largest = larger(largest, magnitude(y[n]));
  }
  maxima[chunk][lane] = largest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kDigitBlock / kChunk; i++) largest = larger(largest, maxima[i][lane]);
  if (row >= out.groups * kGroupRows) return;
  const int e = digit_exponent(largest);
  const float factor = digit_factor(e);
  uint32_t high[4], low[4];
#pragma unroll
  for (int i = 0; i < 4; i++) cut_four<kDigits>(&high[i], &low[i], y + 4 * i, factor);
  uint8_t* const to = out.digit(b, 0, kDigits) + (int64_t)(row / kGroupRows) * kGroupBytes +
                      chunk * kGroupRows * kChunk + row % kGroupRows * kChunk;
  *(uint4*)to = make_uint4(high[0], high[1], high[2], high[3]);
  if (kDigits == 2) *(uint4*)(to + (int64_t)out.groups * kGroupBytes) = make_uint4(low[0], low[1], low[2], low[3]);
  if (chunk == 0) out.scale(b)[row] = row < rows ? digit_scale<kDigits>(e) : 0.0f;
}

// Cuts the rows of x[rows, K], or transposed of x[K, rows].
template <int kDigits>
static void cut(Stream cuda_stream, Operand out, const float* x, int64_t rows, Blocks blocks, bool transposed) {
  if (rows == 0 || out.blocks == 0) return;
  const dim3 threads(kCutThreads);
  if (transposed) {
    const dim3 grid(grid_of((int64_t)blocks_for(rows, kCutWide) * out.blocks));
    SAMEBITS_LAUNCH(cut_columns_kernel<kDigits>, grid, threads, 0, cuda_stream, out, x, (int)rows, blocks);
    return;
  }
  const dim3 grid(blocks_for((int64_t)out.groups * out.blocks, kCutThreads / 32));
  const bool wide = aligned(x) && blocks.K % 4 == 0 && blocks.sequence % 4 == 0;
  const auto kernel = wide ? cut_rows_kernel<kDigits, true> : cut_rows_kernel<kDigits, false>;
  SAMEBITS_LAUNCH(kernel, grid, threads, 0, cuda_stream, out, x, (int)rows, blocks);
}

}  // namespace device
}  // namespace samebits
