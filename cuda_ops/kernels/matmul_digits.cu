// Matrix products in digits (int8x3, int8x1), in three layouts: tiles of the matrix unit.
//
// Operands that are not kept are cut first, into scratch (digits.h). Then a block owns a tile of outputs, kM x kN, and
// a warp 16-row panels of a times 16-row panels of b. Both arrive by cp.async, kK of K a stage and kStages in flight,
// as they lie; ldmatrix reads 8 rows x 16 bytes, all banks once. No size needs to divide anything: rows beyond the
// matrix are not copied (their outputs are dropped), and digits beyond a block are 0. Where the unit has no integers to
// speak of, fragments are widened to bf16 in registers (Bf16Unit of mma.h). Compute capability 9.0 has tiles of its own
// (matmul_digits_wgmma.h).
#include "matmul_digits_tile.h"
#include "matmul_digits_wgmma.h"
#include "mma.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

constexpr int kStages = 3;

template <class Unit_, int kDigits_, int kPanelsM_, int kPanelsN_, int kWarpsM_, int kWarpsN_, int kBlocks_>
struct DigitTile {
  using Unit = Unit_;
  static constexpr int kDigits = kDigits_;
  static constexpr int kPanelsM = kPanelsM_, kPanelsN = kPanelsN_;  // of a warp: 16 rows
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kBlocks = kBlocks_;  // per multiprocessor: bounds the registers
  static constexpr int kM = 16 * kPanelsM * kWarpsM, kN = 16 * kPanelsN * kWarpsN;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kParts = kDigits;  // stages of a block: two digits take twice the room
  static constexpr int kK = kDigitBlock / kParts;
  static constexpr int kScales = (kM + kN) * kDigits * kK;
  static constexpr int kStage = kScales + (kM + kN) * (int)sizeof(float);
  static constexpr int kBytes = kStages * kStage;
  static_assert(kPanelsM % Unit::kPanels == 0 && kPanelsN % Unit::kPanels == 0, "whole fragments");
};

// As if the value were new: what was made of it before is made again, and fills no register in between.
template <class V>
static __device__ __forceinline__ void forget(V& value) {
  asm volatile("" : "+r"(value));
}

// What a thread copies of kRows rows of a block from `first` on, part `part` of K: 16 bytes at a time.
template <class T, int kRows>
static __device__ __forceinline__ void copy_rows(uint8_t* shared, const Operand& of, int first, int block, int part) {
  constexpr int kChunks = kRows * T::kK / 16, kOfGroup = T::kK / kChunk * kGroupRows, kAll = T::kDigits * kChunks;
  static_assert(kChunks % T::kThreads == 0, "whole rounds");
  const int group = first / kGroupRows;
#pragma unroll
  for (int i = 0; i < kAll / T::kThreads; i++) {
    const int digit = i * T::kThreads / kChunks, at = i * T::kThreads % kChunks + (int)threadIdx.x;
    if (group + at / kOfGroup < of.groups) {
      copy_async<16>(shared + digit * kRows * T::kK + at * 16, of.digit(block, digit, T::kDigits) +
                                                                   (int64_t)(group + at / kOfGroup) * kGroupBytes +
                                                                   (part * kOfGroup + at % kOfGroup) * 16);
    }
  }
}

// The scales of a block of a tile's rows and columns: 16 bytes a thread, a's before b's.
template <class T>
static __device__ __forceinline__ void copy_scales(uint8_t* shared, const DigitProduct& p, int row, int column,
                                                   int block) {
  const int i = (int)threadIdx.x * 4;
  const bool is_a = i < T::kM;
  const int at = is_a ? row + i : column + i - T::kM, rows = (is_a ? p.a.groups : p.b.groups) * kGroupRows;
  const float* const from = is_a ? p.a.scale(block) : p.b.scale(block);
  if (i < T::kM + T::kN && at < rows) copy_async<16>(shared + i * 4, from + at);
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kBlocks) matmul_digits_tile(DigitProduct p) {
  SAMEBITS_DYNAMIC_SHARED(uint8_t, shared);
  using Unit = typename T::Unit;
  using Sum = typename Unit::Sum;
  constexpr int kDigits = T::kDigits, kPanelsM = T::kPanelsM, kPanelsN = T::kPanelsN, kParts = T::kParts;
  constexpr int kPanels = Unit::kPanels;  // of a load_fragment()

  const TileAt tile = tile_at((int)blockIdx.x, (p.M + T::kM - 1) / T::kM, (p.N + T::kN - 1) / T::kN);
  const int tile_row = tile.m * T::kM, tile_column = tile.n * T::kN;

  const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
  const int warp_m = warp / T::kWarpsN * kPanelsM * 16, warp_n = warp % T::kWarpsN * kPanelsN * 16;  // its first row
  int first_row = tile_row + warp_m + lane / 4;
  int first_column = tile_column + warp_n + lane % 4 * 2;

  // Row first_row + 16 i + 8 r, column first_column + 8 j + c: sum[i][j][2 r + c], as the unit has it.
  float sum[kPanelsM][2 * kPanelsN][4];
#pragma unroll
  for (int i = 0; i < kPanelsM; i++) {
#pragma unroll
    for (int j = 0; j < 2 * kPanelsN; j++) {
#pragma unroll
      for (int at = 0; at < 4; at++) sum[i][j][at] = 0.0f;
      if (p.accumulate) load_outputs(sum[i][j], p, first_row + 16 * i, first_column + 8 * j);
    }
  }

  // Part `part` of block `block` to a stage.
  const auto copy = [&](uint8_t* to, int block, int part) {
    forget(block);  // or all addresses of a stage would stay in registers
    if (block < p.a.blocks) {
      copy_rows<T, T::kM>(to, p.a, tile_row, block, part);
      copy_rows<T, T::kN>(to + T::kM * kDigits * T::kK, p.b, tile_column, block, part);
      if (part == kParts - 1) copy_scales<T>(to + T::kScales, p, tile_row, tile_column, block);
    }
    copy_async_commit();
  };

  constexpr int kAhead = kStages - 1;  // stages on the way while one is used
#pragma unroll
  for (int s = 0; s < kAhead; s++) copy(shared + s * T::kStage, s / kParts, s % kParts);
  const int own = Unit::own(lane, kGroupRows * T::kK, kGroupRows * kChunk);
  Sum none[4] = {0, 0, 0, 0};
  int used = 0;  // where the stage lies that is used
#pragma unroll 1
  for (int block = 0; block < p.a.blocks; block++) {
    Sum hh[kPanelsM][2 * kPanelsN][4], mixed[kPanelsM][2 * kPanelsN][kDigits == 2 ? 4 : 1];
    const uint8_t* stage = nullptr;
#pragma unroll
    for (int part = 0; part < kParts; part++) {
      copy_async_wait<kAhead - 1>();
      __syncthreads();  // all have the stage, and have read the one that is overwritten next
      stage = shared + used;
      used = used == kAhead * T::kStage ? 0 : used + T::kStage;
      copy(shared + (used == kAhead * T::kStage ? 0 : used + T::kStage), block + (part + kAhead) / kParts,
           (part + kAhead) % kParts);
      const uint8_t* const left = stage + warp_m * T::kK + own;
      const uint8_t* const right = stage + (T::kM * kDigits + warp_n) * T::kK + own;
#pragma unroll
      for (int k = 0; k < T::kK / Unit::kK; k++) {
        const bool fresh = part == 0 && k == 0;
        const int step = k * Unit::kK * kGroupRows;
        uint32_t b[2 * kPanelsN][kDigits][2], words[4];
#pragma unroll
        for (int j = 0; j < kPanelsN; j += kPanels) {
#pragma unroll
          for (int n = 0; n < kDigits; n++) {
            load_fragment(words, right + (n * T::kN + j * 16) * T::kK + step);
#pragma unroll
            for (int c = 0; c < 2 * kPanels; c++) Unit::right(b[2 * j + c][n], words, c);
          }
        }
#pragma unroll
        for (int first = 0; first < kPanelsM; first += kPanels) {
          uint32_t bytes[kDigits][4];
#pragma unroll
          for (int n = 0; n < kDigits; n++) {
            load_fragment(bytes[n], left + (n * T::kM + first * 16) * T::kK + step);
          }
#pragma unroll
          for (int i = first; i < first + kPanels; i++) {
            uint32_t a[kDigits][4];
#pragma unroll
            for (int n = 0; n < kDigits; n++) Unit::left(a[n], bytes[n], i - first);
#pragma unroll
            for (int j = 0; j < 2 * kPanelsN; j++) {
              Unit::multiply(hh[i][j], a[0], b[j][0], fresh ? none : hh[i][j]);
              if constexpr (kDigits == 2) {
                Unit::multiply(mixed[i][j], a[0], b[j][1], fresh ? none : mixed[i][j]);
                Unit::multiply(mixed[i][j], a[1], b[j][0], mixed[i][j]);
              }
            }
          }
        }
      }
    }
    const float* const scales = reinterpret_cast<const float*>(stage + T::kScales);
    const float* const scales_a = scales + warp_m + lane / 4;
    const float* const scales_b = scales + T::kM + warp_n + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 2 * kPanelsN; j++) {
      const Pack<2> scale_b = load<2>(scales_b + 8 * j);
#pragma unroll
      for (int i = 0; i < kPanelsM; i++) {
#pragma unroll
        for (int at = 0; at < 4; at++) {
          sum[i][j][at] = join<kDigits>(Unit::whole(hh[i][j][at]),
                                        kDigits == 2 ? Unit::whole(mixed[i][j][kDigits == 2 ? at : 0]) : 0,
                                        scales_a[16 * i + at / 2 * 8], scale_b.x[at % 2], sum[i][j][at]);
        }
      }
    }
  }

  forget(first_row);
  forget(first_column);
  const bool inside = p.wide && tile_row + T::kM <= p.M && tile_column + T::kN <= p.N;
#pragma unroll
  for (int j = 0; j < 2 * kPanelsN; j++) {
#pragma unroll
    for (int i = 0; i < kPanelsM; i++) store_outputs(p, first_row + 16 * i, first_column + 8 * j, sum[i][j], inside);
  }
}

// ---------------------------------------------------------------- launchers

// 128 x 128 outputs by 8 warps, one block on a multiprocessor; 64 x 64 by 4 warps, for products of few tiles.
template <class Unit, int kDigits>
using LargeTile = DigitTile<Unit, kDigits, 4, 2, 2, 4, 1>;
template <class Unit, int kDigits>
using SmallTile = DigitTile<Unit, kDigits, 2, 2, 2, 2, 3>;

// Two digits keep too many registers for 192 columns.
template <int kDigits>
using WidestTile = WgmmaTile<kDigits, kDigits == 1 ? 192 : 128>;

// The multiprocessors of an H100, whatever the device: so a tile is a function of the problem. From so many large tiles
// on, small ones lose: they read twice the bytes.
constexpr int64_t kProcessorsThere = 132;

static int64_t tiles_of(int64_t M, int64_t N, int rows, int columns) {
  return (M + rows - 1) / rows * ((N + columns - 1) / columns);
}

// Of the tiles of 9.0, the one whose waves take the least: the time of a block of K as measured on an H100, in
// hundredths of that of 128 columns.
static int wgmma_tile_for(int64_t M, int64_t N, int digits) {
  struct Choice {
    int tile, columns, time;
  };
  const Choice choices[] = {
      {kWgmmaTile, 128, 100}, {kNarrowWgmmaTile, 64, digits == 2 ? 60 : 63}, {kWideWgmmaTile, 192, 143}};
  int best = kWgmmaTile;
  int64_t least = INT64_MAX;
  for (const Choice& choice : choices) {
    if (choice.tile == kWideWgmmaTile && digits == 2) continue;
    const int64_t waves = (tiles_of(M, N, 128, choice.columns) + kProcessorsThere - 1) / kProcessorsThere;
    if (waves * choice.time >= least) continue;
    least = waves * choice.time;
    best = choice.tile;
  }
  return best;
}

int matmul_digits_tile_for(int64_t M, int64_t N, int digits) {
  const bool large = tiles_of(M, N, 128, 128) >= kProcessorsThere;
  const int major = device_attribute(kCapabilityMajor);
  if (major == 9) return wgmma_tile_for(M, N, digits);
  if (major == 10 && device_attribute(kCapabilityMinor) == 3) return large ? kLargeBf16Tile : kSmallBf16Tile;
  return large ? kLargeDigitTile : kSmallDigitTile;
}

template <class T>
static void launch_tile(Stream cuda_stream, const DigitProduct& p) {
  const dim3 grid(grid_of(tiles_of(p.M, p.N, T::kM, T::kN)));
  SAMEBITS_LAUNCH(matmul_digits_tile<T>, grid, dim3(T::kThreads), T::kBytes, cuda_stream, p);
}

template <class T>
static void launch_wgmma(Stream cuda_stream, const DigitProduct& p) {
  const unsigned tiles = grid_of(tiles_of(p.M, p.N, T::kM, T::kN)), processors = device_attribute(kProcessors);
  const dim3 grid(tiles < processors ? tiles : processors);
  SAMEBITS_LAUNCH(matmul_digits_wgmma<T>, grid, dim3(T::kThreads), T::kBytes, cuda_stream, p);
}

template <int kDigits>
static void multiply(Stream cuda_stream, DigitProduct p, const float* a, const float* b, const uint8_t* kept,
                     const Blocks& blocks, int layout, int tile) {
  const int64_t count = blocks.count();
  const int64_t left = operand_bytes(p.M, count, kDigits), right = kept ? 0 : operand_bytes(p.N, count, kDigits);
  const Scratch memory(cuda_stream, (size_t)(left + right));  // both are multiples of 64 bytes
  p.a = operand_in(memory.as<uint8_t>(), p.M, count, kDigits);
  p.b = operand_in(kept ? kept : memory.as<uint8_t>() + left, p.N, count, kDigits);
  cut<kDigits>(cuda_stream, p.a, a, p.M, blocks, layout == 2);
  if (!kept) cut<kDigits>(cuda_stream, p.b, b, p.N, blocks, layout != 0);
  void (*const run[])(Stream, const DigitProduct&) = {
      // as in matmul_digits.h
      launch_tile<LargeTile<IntegerUnit, kDigits>>,
      launch_tile<SmallTile<IntegerUnit, kDigits>>,
      launch_wgmma<WgmmaTile<kDigits, 128>>,
      launch_wgmma<WgmmaTile<kDigits, 64>>,
      launch_wgmma<WidestTile<kDigits>>,
      launch_tile<LargeTile<Bf16Unit, kDigits>>,
      launch_tile<SmallTile<Bf16Unit, kDigits>>,
  };
  run[tile](cuda_stream, p);
}

// A kernel of wgmma is empty where it is compiled for another unit: such a tile would leave out as it was.
static void check_tile(int tile) {
  const bool known = tile >= kLargeDigitTile && tile <= kSmallBf16Tile;
  const bool wgmma = tile == kWgmmaTile || tile == kNarrowWgmmaTile || tile == kWideWgmmaTile;
  if (known && (!wgmma || device_attribute(kCapabilityMajor) == 9)) return;
  throw std::runtime_error("matmul_digits: tile " + std::to_string(tile) + " on compute capability " +
                           std::to_string(device_attribute(kCapabilityMajor)) + "." +
                           std::to_string(device_attribute(kCapabilityMinor)) +
                           ": allowed are 0, 1, 5 and 6, and on 9.0 also 2, 3 and 4 (matmul_digits.h)");
}

void matmul_digits_with_tile(Stream cuda_stream, float* out, const float* a, const float* b, const uint8_t* kept,
                             const float* bias, int64_t M, int64_t N, int64_t K, int layout, bool accumulate,
                             int digits, int64_t sequence, int tile) {
  check_tile(tile);
  if (M == 0 || N == 0) return;
  const DigitProduct p{out, {}, {}, bias, (int)M, (int)N, accumulate, N % 2 == 0 && aligned(out)};
  const auto run = digits == 2 ? multiply<2> : multiply<1>;
  run(cuda_stream, p, a, b, kept, Blocks(K, sequence), layout, tile);
}

void matmul_digits(Stream cuda_stream, float* out, const float* a, const float* b, const uint8_t* kept,
                   const float* bias, int64_t M, int64_t N, int64_t K, int layout, bool accumulate, int digits,
                   int64_t sequence) {
  matmul_digits_with_tile(cuda_stream, out, a, b, kept, bias, M, N, K, layout, accumulate, digits, sequence,
                          matmul_digits_tile_for(M, N, digits));
}

}  // namespace device
}  // namespace samebits
