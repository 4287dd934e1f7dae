// Matrix products in three layouts: register and shared memory tiles, fp32 FMA.
//
// A block owns a tile of outputs, kM x kN of `Tile`; blockIdx.x counts tiles in groups of kGroup tile rows, so that
// blocks which run together share operands in the L2 cache. A warp owns a part of it as 4 x 8 or 8 x 4 lanes
// (tile.h), and a thread kThreadM x kThreadN outputs in squares of 4 x 4. Operands arrive k-major in shared memory,
// a[kK][kM + 4] and b[kK][kN + 4], kStages of them in flight by cp.async: an operand that is dense along k is
// transposed by 4-byte copies (eight lanes along k, so whole 32-byte sectors), the others come 16 bytes at a time.
// Where their rows or those of out are not 16-byte aligned, one narrow tile goes 4 bytes at a time. No size needs to
// divide anything: rows and columns beyond the matrix repeat its last (their outputs are dropped), and K is never
// padded.
//
// order: each output is one chain over k ascending, sum = fma_(a, b, sum), from +0 or, accumulating, from what out
// holds; a bias is added to the finished chain by one add. K is never split. A tile decides only which thread walks a
// chain, so it is picked per problem and cannot change a bit.
#include "matmul.h"

#include "matmul_few_rows.h"
#include "tile.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

enum Layout { kNT = 0, kNN = 1, kTN = 2 };

constexpr int kGroup = 8;

// kK: k per stage; the main loop is unrolled over it, so about a thousand fma is what the instruction cache takes.
template <int kM_, int kN_, int kK_, int kThreadM_, int kThreadN_, int kLaneRows_, int kBlocks_>
struct Tile {
  static constexpr int kM = kM_, kN = kN_, kK = kK_, kThreadM = kThreadM_, kThreadN = kThreadN_;
  static constexpr int kLaneRows = kLaneRows_;
  static constexpr int kBlocks = kBlocks_;  // per multiprocessor: bounds the registers
  static constexpr int kLaneColumns = 32 / kLaneRows;
  static constexpr int kWarpM = kLaneRows * kThreadM, kWarpN = kLaneColumns * kThreadN;
  static constexpr int kWarpColumns = kN / kWarpN;
  static constexpr int kStages = kK == 8 ? 4 : 3;  // tiles of k: one is used while the others are in flight
  static constexpr int kThreads = 32 * (kM / kWarpM) * kWarpColumns;
  static constexpr int kStrideA = kM + kPad, kStrideB = kN + kPad;
  static constexpr int kStage = kK * (kStrideA + kStrideB);  // floats
};

// Copies kK x kTile of one operand into shared memory, [kK][kTile + kPad], one tile of k after the other.
template <bool kAlongK, int kTile, int kK, int kThreads, bool kWide>
struct Copier {
  static constexpr int kStride = kTile + kPad;
  static constexpr int kWidth = !kAlongK && kWide ? 4 : 1;        // floats per copy
  static constexpr int kInner = kAlongK ? 8 : kTile / kWidth;     // threads in the dense direction
  static constexpr int kOuter = kThreads / kInner;                // and in the other
  static constexpr int kSteps = (kAlongK ? kTile : kK) / kOuter;  // copies of a thread in the other direction
  static constexpr int kRepeats = kAlongK ? kK / 8 : 1;           // and in the dense one
  static_assert(kSteps * kOuter == (kAlongK ? kTile : kK), "an even share");

  const float* source;
  int64_t step;  // floats from one tile of k to the next
  int offset[kSteps];
  int k, target;

  // operand: at k = 0 and the block's first row (or column) of `count` that are left; `row` floats apart are its rows
  // if it is dense along k, its steps of k otherwise.
  __device__ __forceinline__ Copier(const float* operand, int64_t row, int64_t count) : source(operand) {
    const int inner = (int)threadIdx.x % kInner, outer = (int)threadIdx.x / kInner;
    const int last = (int)(count < kTile ? count : kTile) - 1;
    k = kAlongK ? inner : outer;
    target = kAlongK ? inner * kStride + outer : outer * kStride + inner * kWidth;
    step = kAlongK ? kK : kK * row;
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      const int at = outer + i * kOuter, held = last / kWidth * kWidth;
      offset[i] = kAlongK ? (int)((at < last ? at : last) * row) + inner
                          : (int)(at * row) + (inner * kWidth < held ? inner * kWidth : held);
    }
  }

  // Part `part` of kParts of a tile of k; left: how many k there are from this tile on.
  template <int kParts>
  __device__ __forceinline__ void copy(float* shared, int left, int part) {
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
#pragma unroll
      for (int repeat = 0; repeat < kRepeats; repeat++) {
        if ((i * kRepeats + repeat) * kParts / (kSteps * kRepeats) != part) continue;
        const int at = kAlongK ? repeat * 8 * kStride + i * kOuter : i * kOuter * kStride;
        const int own_k = k + (kAlongK ? repeat * 8 : i * kOuter);
        if (own_k < left) copy_async<4 * kWidth>(shared + target + at, source + offset[i] + repeat * 8);
      }
    }
    if (part == kParts - 1) source += step;
  }
};

template <int kLayout, class T, bool kWide>
__global__ void __launch_bounds__(T::kThreads, T::kBlocks)
    matmul_tile(float* out, const float* a, const float* b, const float* bias, int M, int N, int K, bool accumulate) {
  SAMEBITS_DYNAMIC_SHARED(float, shared);
  constexpr int kThreadM = T::kThreadM, kThreadN = T::kThreadN, kK = T::kK, kStages = T::kStages;
  // The copies of a stage are issued in parts: in a burst they would hold up the loads from shared memory.
  constexpr int kParts = kLayout == kNT ? 4 : 2, kPartLength = kK / kParts;

  const int tiles_m = (M + T::kM - 1) / T::kM, tiles_n = (N + T::kN - 1) / T::kN;
  const int group = (int)blockIdx.x / (kGroup * tiles_n), within = (int)blockIdx.x % (kGroup * tiles_n);
  const int group_rows = tiles_m - group * kGroup < kGroup ? tiles_m - group * kGroup : kGroup;
  const int m0 = (group * kGroup + within % group_rows) * T::kM, n0 = within / group_rows * T::kN;

  const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
  const int row = warp / T::kWarpColumns * T::kWarpM + lane_row<T::kLaneRows>(lane) * 4;
  const int column = warp % T::kWarpColumns * T::kWarpN + lane_column<T::kLaneRows>(lane) * 4;
  // Output (i, j) of the thread lies at row_of(i), column_of(j).
  const auto row_of = [&](int i) { return m0 + row + i / 4 * (T::kLaneRows * 4) + i % 4; };
  const auto column_of = [&](int j) { return n0 + column + j / 4 * (T::kLaneColumns * 4) + j % 4; };

  float sum[kThreadM][kThreadN];
#pragma unroll
  for (int i = 0; i < kThreadM; i++) {
#pragma unroll
    for (int j = 0; j < kThreadN; j++) sum[i][j] = 0.0f;
  }
  if (accumulate) {
#pragma unroll
    for (int i = 0; i < kThreadM; i++) {
      const float* source = out + (int64_t)row_of(i) * N;
#pragma unroll
      for (int j = 0; j < kThreadN; j += 4) {
        const int at = column_of(j);
        if (kWide) {
          if (row_of(i) < M && at < N) {
            const Quad q = load_quad(source + at);
#pragma unroll
            for (int c = 0; c < 4; c++) sum[i][j + c] = q.x[c];
          }
        } else {
#pragma unroll
          for (int c = 0; c < 4; c++) {
            if (row_of(i) < M && at + c < N) sum[i][j + c] = source[at + c];
          }
        }
      }
    }
  }

  Copier<kLayout != kTN, T::kM, kK, T::kThreads, kWide> copy_a(a + (kLayout == kTN ? m0 : (int64_t)m0 * K),
                                                               kLayout == kTN ? M : K, M - m0);
  Copier<kLayout == kNT, T::kN, kK, T::kThreads, kWide> copy_b(b + (kLayout == kNT ? (int64_t)n0 * K : n0),
                                                               kLayout == kNT ? K : N, N - n0);

  int left = K;  // k that no copy has been asked for yet
#pragma unroll
  for (int stage = 0; stage < kStages - 1; stage++) {
    copy_a.template copy<1>(shared + stage * T::kStage, left, 0);
    copy_b.template copy<1>(shared + stage * T::kStage + kK * T::kStrideA, left, 0);
    copy_async_commit();
    left -= kK;
  }

  Quad part_a[2][kThreadM / 4], part_b[2][kThreadN / 4];
  const float* reading = shared;
  float* writing = shared + (kStages - 1) * T::kStage;
  const auto load = [&](int buffer, int k) {
#pragma unroll
    for (int i = 0; i < kThreadM / 4; i++) {
      part_a[buffer][i] = load_quad(reading + k * T::kStrideA + row + i * (T::kLaneRows * 4));
    }
#pragma unroll
    for (int j = 0; j < kThreadN / 4; j++) {
      part_b[buffer][j] = load_quad(reading + kK * T::kStrideA + k * T::kStrideB + column + j * (T::kLaneColumns * 4));
    }
  };
  const auto multiply = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < kThreadM; i++) {
#pragma unroll
      for (int j = 0; j < kThreadN; j++) {
        sum[i][j] = fma_(part_a[buffer][i / 4].x[i % 4], part_b[buffer][j / 4].x[j % 4], sum[i][j]);
      }
    }
  };

  copy_async_wait<kStages - 2>();
  __syncthreads();
  load(0, 0);
#pragma unroll 1
  for (int tile = K / kK; tile > 0; tile--) {
#pragma unroll
    for (int k = 0; k < kK; k++) {
      if (k == kK - 1) {
        // The next tile has arrived, and nobody reads this one any more but from registers.
        copy_async_wait<kStages - 2>();
        __syncthreads();
        reading = reading == shared + (kStages - 1) * T::kStage ? shared : reading + T::kStage;
      }
      load((k + 1) % 2, (k + 1) % kK);
      if (k % kPartLength == 0) {
        copy_a.template copy<kParts>(writing, left, k / kPartLength);
        copy_b.template copy<kParts>(writing + kK * T::kStrideA, left, k / kPartLength);
      }
      if (k == (kParts - 1) * kPartLength) {
        copy_async_commit();
        left -= kK;
        writing = writing == shared + (kStages - 1) * T::kStage ? shared : writing + T::kStage;
      }
      multiply(k % 2);
    }
  }
#pragma unroll 1
  for (int k = 0; k < K % kK; k++) {
    load(0, k);
    multiply(0);
  }

  if (bias) {
#pragma unroll
    for (int j = 0; j < kThreadN; j++) {
      const float own_bias = column_of(j) < N ? bias[column_of(j)] : 0.0f;
#pragma unroll
      for (int i = 0; i < kThreadM; i++) sum[i][j] = add(sum[i][j], own_bias);
    }
  }
#pragma unroll
  for (int i = 0; i < kThreadM; i++) {
    if (row_of(i) >= M) continue;
    float* target = out + (int64_t)row_of(i) * N;
#pragma unroll
    for (int j = 0; j < kThreadN; j += 4) {
      const int at = column_of(j);
      if (kWide) {
        if (at < N) store_quad(target + at, Quad{{sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]}});
      } else {
#pragma unroll
        for (int c = 0; c < 4; c++) {
          if (at + c < N) target[at + c] = sum[i][j + c];
        }
      }
    }
  }
}

// ---------------------------------------------------------------- launchers

using Large = Tile<128, 128, 8, 8, 16, 8, 2>;
using Square = Tile<128, 128, 16, 8, 8, 4, 2>;
using Wide = Tile<64, 128, 16, 8, 8, 4, 3>;
using Small = Tile<64, 64, 16, 4, 8, 4, 3>;
using Narrow = Tile<64, 64, 8, 4, 8, 4, 3>;  // for rows that are not 16-byte aligned

struct Problem {
  float* out;
  const float *a, *b, *bias;
  int64_t M, N, K;
  bool accumulate, wide;
};

template <int kLayout, class T, bool kWide>
static void launch_tile(Stream cuda_stream, const Problem& p) {
  const int64_t tiles = ((p.M + T::kM - 1) / T::kM) * ((p.N + T::kN - 1) / T::kN);
  SAMEBITS_LAUNCH((matmul_tile<kLayout, T, kWide>), dim3(grid_of(tiles)), dim3(T::kThreads),
                  T::kStages * T::kStage * sizeof(float), cuda_stream, p.out, p.a, p.b, p.bias, (int)p.M, (int)p.N,
                  (int)p.K, p.accumulate);
}

template <int kLayout>
static void launch_layout(Stream cuda_stream, const Problem& p, int tile) {
  if (!p.wide) {
    launch_tile<kLayout, Narrow, false>(cuda_stream, p);
  } else if (tile == kLargeTile) {
    launch_tile<kLayout, Large, true>(cuda_stream, p);
  } else if (tile == kSquareTile && kLayout == kNT) {
    launch_tile<kNT, Square, true>(cuda_stream, p);
  } else if (tile == kSquareTile || tile == kWideTile) {
    launch_tile<kLayout, Wide, true>(cuda_stream, p);
  } else {
    launch_tile<kLayout, Small, true>(cuda_stream, p);
  }
}

static void launch_few_rows(Stream cuda_stream, const Problem& p, int layout) {
  const dim3 grid(grid_of((p.N + kFewColumns - 1) / kFewColumns), grid_of((p.M + kFewRows - 1) / kFewRows));
  const size_t bytes = kFewStages * kFewStage * sizeof(float);
  const bool wide = rows_aligned(p.b, layout == kNT ? p.K : p.N);
  const int64_t a_row = layout == kTN ? 1 : p.K, a_step = layout == kTN ? p.M : 1;
  const auto matmul_few_rows_of = layout == kNT ? matmul_few_rows<true> : matmul_few_rows<false>;
  SAMEBITS_LAUNCH(matmul_few_rows_of, grid, dim3(kFewThreads), bytes, cuda_stream, p.out, p.a, p.b, p.bias, p.M, p.N,
                  p.K, a_row, a_step, p.accumulate, wide);
}

int matmul_tile_for(int64_t M, int64_t N, int layout) {
  if (M <= 2 * kFewRows) return kFewRowsTile;
  // Rounds of tiles over kProcessors, times the work of one: a fixed number, so that a problem has one tile everywhere.
  // The percentages are measured (docs/kernels.md): the time of a tile over that of the fastest, per output. Blocks of
  // large tiles end in pairs, and the scheduler puts the next pair where they were: their rounds come in whole waves.
  // A tile in a single round is alone on its multiprocessor and hides fewer waits: a twentieth more. Square tiles are
  // for nt alone: for tn they are faster by themselves, but tn runs beside nn, and two of them fill a multiprocessor.
  constexpr int64_t kProcessors = 132;
  constexpr int kPercent[3][4] = {{100, 100, 103, 113}, {100, 0, 101, 112}, {100, 0, 102, 107}};
  int best = kLargeTile;
  int64_t least = 0;
  const auto consider = [&](int number, auto tile) {
    using T = decltype(tile);
    if (kPercent[layout][number] == 0) return;
    const int64_t tiles = ((M + T::kM - 1) / T::kM) * ((N + T::kN - 1) / T::kN);
    int64_t rounds = (tiles + kProcessors - 1) / kProcessors;
    if (number == kLargeTile && rounds > T::kBlocks) rounds = (rounds + T::kBlocks - 1) / T::kBlocks * T::kBlocks;
    const int64_t cost = rounds * T::kM * T::kN * kPercent[layout][number] * (20 + (rounds == 1));
    if (least && cost >= least) return;
    least = cost;
    best = number;
  };
  consider(kSquareTile, Square());
  consider(kLargeTile, Large());
  consider(kWideTile, Wide());
  consider(kSmallTile, Small());
  return best;
}

void matmul_with_tile(Stream cuda_stream, float* out, const float* a, const float* b, const float* bias, int64_t M,
                      int64_t N, int64_t K, int layout, bool accumulate, int tile) {
  if (M == 0 || N == 0) return;
  // Offsets within a tile are 32-bit.
  constexpr int64_t kLimit = int64_t(1) << 24;
  if (M > kLimit || N > kLimit || K > kLimit) {
    throw std::runtime_error("matmul: M = " + std::to_string(M) + ", N = " + std::to_string(N) +
                             ", K = " + std::to_string(K) + ": allowed is up to " + std::to_string(kLimit));
  }
  // An operand that is dense along k is copied 4 bytes at a time anyhow.
  const bool wide =
      rows_aligned(out, N) && (layout == kNT || rows_aligned(b, N)) && (layout != kTN || rows_aligned(a, M));
  const Problem problem{out, a, b, bias, M, N, K, accumulate, wide};
  if (tile == kFewRowsTile) {
    launch_few_rows(cuda_stream, problem, layout);
  } else if (layout == kNT) {
    launch_layout<kNT>(cuda_stream, problem, tile);
  } else if (layout == kNN) {
    launch_layout<kNN>(cuda_stream, problem, tile);
  } else {
    launch_layout<kTN>(cuda_stream, problem, tile);
  }
}

void matmul(Stream cuda_stream, float* out, const float* a, const float* b, const float* bias, int64_t M, int64_t N,
            int64_t K, int layout, bool accumulate) {
  matmul_with_tile(cuda_stream, out, a, b, bias, M, N, K, layout, accumulate, matmul_tile_for(M, N, layout));
}

}  // namespace device
}  // namespace samebits
