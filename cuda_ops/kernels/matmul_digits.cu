// Matrix products in digits (int8x3, int8x1), in three layouts: tiles of the matrix unit for 8-bit integers.
//
// Operands that are not kept are cut first, into scratch (digits.h). Then a block owns a tile of outputs, kM x kN, and
// a warp 16-row panels of a times 16-row panels of b. Both arrive by cp.async as panels of words, kK of K a stage and
// kStages in flight; a stage's words are permuted by pairs of rows (place()), so that eight bytes of four steps of
// eight rows touch all banks once. A lane reads rows 2 g and 2 g + 1 of a panel at once: they are rows g and g + 8 of
// the unit's a, or column g of two of its b, so that a lane ends up with four neighbouring outputs of two rows. No size
// needs to divide anything: panels beyond the matrix repeat its last (their outputs are dropped), and steps beyond a
// block hold digits 0 in a.
//
// order: per output, blocks of K in ascending order, sum = join(block's exact sums, sum), from +0 or, accumulating,
// from what out holds; a bias is added to the finished chain by one add. A tile decides only who computes what.
#include "matmul_digits.h"

#include "digits.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

constexpr int kGroup = 8;  // tile rows that run together and share b in the L2 cache
constexpr int kStages = 3;

template <int kDigits_, int kPanelsM_, int kPanelsN_, int kWarpsM_, int kWarpsN_, int kBlocks_>
struct DigitTile {
  static constexpr int kDigits = kDigits_;
  static constexpr int kPanelsM = kPanelsM_, kPanelsN = kPanelsN_;  // of a warp
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kBlocks = kBlocks_;  // per multiprocessor: bounds the registers
  static constexpr int kAllM = kPanelsM * kWarpsM, kAllN = kPanelsN * kWarpsN, kAll = kAllM + kAllN;
  static constexpr int kM = kAllM * kPanel, kN = kAllN * kPanel;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kParts = kDigits;  // stages of a block: two digits take twice the room
  static constexpr int kK = kDigitBlock / kParts;
  static constexpr int kPart = kK * kPanel;  // bytes of a panel's digit in a stage
  static constexpr int kScales = kAll * kDigits * kPart;
  static constexpr int kStage = kScales + kAll * kPanel * (int)sizeof(float);
  static constexpr int kBytes = kStages * kStage;
};

// Where the 16 bytes `chunk` of a panel's digit lie in shared memory: bits [step / 4][pair of four rows][step % 4, its
// upper bit flipped in the upper half][half of the pair] of a chunk [step][four rows].
static __device__ __forceinline__ int place(int chunk) {
  const int four = chunk % 4, step = chunk / 4, upper = four >> 1;
  return ((step >> 2) * 2 + upper) * 8 + ((step & 3) ^ (upper << 1)) * 2 + (four & 1);
}

// Bytes from a panel's digit to the lane's words of rows 2 g and 2 g + 1 at step t; the same of step t + 4 are 256 on.
static __device__ __forceinline__ int lane_place(int lane) {
  const int g = lane / 4, t = lane % 4, upper = g >> 2;
  return upper * 128 + ((t ^ (upper << 1)) * 2 + (g >> 1 & 1)) * 16 + (g & 1) * 8;
}

// As if the value were new: what was made of it before is made again, and fills no register in between.
template <class V>
static __device__ __forceinline__ void forget(V& value) {
  asm volatile("" : "+r"(value));
}

struct Product {
  float* out;
  Operand a, b;
  const float* bias;
  int M, N;
  bool accumulate, wide;
};

// What a thread copies of panels: the same places of both operands, in units of 16 bytes.
template <class T>
struct PanelCopier {
  static constexpr int kChunks = T::kPart / 16, kAtOnce = T::kThreads / kChunks;
  static constexpr int kDigit = kPanelBytes / 16, kStep = kAtOnce / T::kDigits;  // of a digit; panels at once
  static_assert(T::kThreads % kChunks == 0 && kAtOnce % T::kDigits == 0, "whole panels");

  int panel;
  unsigned from;
  int to;

  __device__ __forceinline__ explicit PanelCopier(int blocks) {
    const int own = (int)threadIdx.x / kChunks, chunk = (int)threadIdx.x % kChunks;
    panel = own / T::kDigits;
    from = (unsigned)(panel * T::kDigits * kDigit) * blocks + own % T::kDigits * kDigit + chunk;
    to = own * T::kPart + place(chunk) * 16;
  }

  // Part `part` of a block of kCount panels; `panels` of them there are. first: the first panel's block.
  template <int kCount>
  __device__ __forceinline__ void copy(uint8_t* shared, const uint4* first, int panels, int blocks, int part) const {
    static_assert(kCount % kStep == 0, "an even share");
#pragma unroll
    for (int i = 0; i < kCount / kStep; i++) {
      const unsigned at = from + (unsigned)(i * kStep * T::kDigits * kDigit) * blocks + part * kChunks;
      if (panel + i * kStep < panels) copy_async<16>(shared + to + i * kAtOnce * T::kPart, first + at);
    }
  }
};

// The scales of a block of those panels: 16 bytes a thread, a's before b's.
template <class T>
static __device__ __forceinline__ void copy_scales(uint8_t* shared, const Operand& a, const Operand& b, int panel_m,
                                                   int panel_n, int panels_m, int panels_n, int block) {
  const int i = (int)threadIdx.x / 4;
  const bool is_a = i < T::kAllM;
  const int panel = is_a ? panel_m + i : panel_n + i - T::kAllM;
  if (i >= T::kAll || panel >= (is_a ? panels_m : panels_n)) return;
  copy_async<16>(shared + (int)threadIdx.x * 16,
                 (is_a ? a : b).scales + ((int64_t)panel * a.blocks + block) * kPanel + (int)threadIdx.x % 4 * 4);
}

static __device__ __forceinline__ uint2 load_pair(const uint8_t* shared) {
  return *reinterpret_cast<const uint2*>(shared);
}

// A lane's words of a panel's digit, 32 of K: steps t and t + 4 of rows 2 g and 2 g + 1.
static __device__ __forceinline__ void load_words(uint32_t (&words)[4], const uint8_t* shared, uint32_t flip) {
  const uint2 near = load_pair(shared), far = load_pair(shared + 256);
  words[0] = near.x ^ flip;
  words[1] = near.y ^ flip;
  words[2] = far.x ^ flip;
  words[3] = far.y ^ flip;
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kBlocks) matmul_digits_tile(Product p) {
  SAMEBITS_DYNAMIC_SHARED(uint8_t, shared);
  constexpr int kDigits = T::kDigits, kPanelsM = T::kPanelsM, kPanelsN = T::kPanelsN, kParts = T::kParts;

  const int tiles_m = (p.M + T::kM - 1) / T::kM, tiles_n = (p.N + T::kN - 1) / T::kN;
  const int group = (int)blockIdx.x / (kGroup * tiles_n), within = (int)blockIdx.x % (kGroup * tiles_n);
  const int group_rows = min(tiles_m - group * kGroup, kGroup);
  const int tile_m = group * kGroup + within % group_rows, tile_n = within / group_rows;
  const int panel_m = tile_m * T::kAllM, panel_n = tile_n * T::kAllN;
  const int panels_m = (p.M + kPanel - 1) / kPanel, panels_n = (p.N + kPanel - 1) / kPanel;

  const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
  const int warp_m = warp / T::kWarpsN * kPanelsM, warp_n = warp % T::kWarpsN * kPanelsN;  // panels
  int first_row = (panel_m + warp_m) * kPanel + lane / 4 * 2;
  int first_column = (panel_n + warp_n) * kPanel + lane % 4 * 4;

  // Of panel i, row first_row + 16 i + r, column first_column + 16 j + c: sum[i][j][r][c].
  float sum[kPanelsM][kPanelsN][2][4];
#pragma unroll
  for (int i = 0; i < kPanelsM; i++) {
#pragma unroll
    for (int j = 0; j < kPanelsN; j++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int row = first_row + i * kPanel + r, column = first_column + j * kPanel;
        const bool any = p.accumulate && row < p.M;
        load_four(sum[i][j][r], p.out + (int64_t)row * p.N + column, any ? p.N - column : 0, p.wide);
      }
    }
  }

  PanelCopier<T> copier(p.a.blocks);
  constexpr int kBlock = kDigits * PanelCopier<T>::kDigit;
  const uint4* const first_a = (const uint4*)p.a.digits + (int64_t)panel_m * p.a.blocks * kBlock;
  const uint4* const first_b = (const uint4*)p.b.digits + (int64_t)panel_n * p.a.blocks * kBlock;
  // Part `part` of block `block` to a stage.
  const auto copy = [&](uint8_t* to, int block, int part) {
    if (block < p.a.blocks) {
      forget(copier.from);
      forget(copier.panel);
      copier.template copy<T::kAllM>(to, first_a + (int64_t)block * kBlock, panels_m - panel_m, p.a.blocks, part);
      copier.template copy<T::kAllN>(to + T::kAllM * kDigits * T::kPart, first_b + (int64_t)block * kBlock,
                                     panels_n - panel_n, p.a.blocks, part);
      if (part == kParts - 1) {
        copy_scales<T>(to + T::kScales, p.a, p.b, panel_m, panel_n, panels_m, panels_n, block);
      }
    }
    copy_async_commit();
  };

  constexpr int kAhead = kStages - 1;  // stages on the way while one is used
#pragma unroll
  for (int s = 0; s < kAhead; s++) copy(shared + s * T::kStage, s / kParts, s % kParts);
  const int own = lane_place(lane);
  int32_t none[4] = {0, 0, 0, 0};
  int used = 0;  // where the stage lies that is used
#pragma unroll 1
  for (int block = 0; block < p.a.blocks; block++) {
    int32_t hh[kPanelsM][kPanelsN][2][4], mixed[kPanelsM][kPanelsN][2][kDigits == 2 ? 4 : 1];
    const uint8_t* stage = nullptr;
#pragma unroll
    for (int part = 0; part < kParts; part++) {
      copy_async_wait<kAhead - 1>();
      __syncthreads();  // all have the stage, and have read the one that is overwritten next
      stage = shared + used;
      used = used == kAhead * T::kStage ? 0 : used + T::kStage;
      copy(shared + (used == kAhead * T::kStage ? 0 : used + T::kStage), block + (part + kAhead) / kParts,
           (part + kAhead) % kParts);
      const uint8_t* const left = stage + warp_m * kDigits * T::kPart + own;
      const uint8_t* const right = stage + (T::kAllM + warp_n) * kDigits * T::kPart + own;
#pragma unroll
      for (int k = 0; k < T::kK / 32; k++) {
        const bool fresh = part == 0 && k == 0;
        uint32_t b[kPanelsN][kDigits][4];
#pragma unroll
        for (int j = 0; j < kPanelsN; j++) {
#pragma unroll
          for (int n = 0; n < kDigits; n++) {
            load_words(b[j][n], right + (j * kDigits + n) * T::kPart + k * 512, 0x80808080u);
          }
        }
#pragma unroll
        for (int i = 0; i < kPanelsM; i++) {
          uint32_t a[kDigits][4];
#pragma unroll
          for (int n = 0; n < kDigits; n++) load_words(a[n], left + (i * kDigits + n) * T::kPart + k * 512, 0);
#pragma unroll
          for (int j = 0; j < kPanelsN; j++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
              multiply_digits(hh[i][j][c], a[0], b[j][0][c], b[j][0][c + 2], fresh ? none : hh[i][j][c]);
              if constexpr (kDigits == 2) {
                multiply_digits(mixed[i][j][c], a[0], b[j][1][c], b[j][1][c + 2], fresh ? none : mixed[i][j][c]);
                multiply_digits(mixed[i][j][c], a[1], b[j][0][c], b[j][0][c + 2], mixed[i][j][c]);
              }
            }
          }
        }
      }
    }
    const float* const scales = reinterpret_cast<const float*>(stage + T::kScales);
    const float* const scales_a = scales + warp_m * kPanel + lane / 4 * 2;
    const float* const scales_b = scales + (T::kAllM + warp_n) * kPanel + lane % 4 * 4;
#pragma unroll
    for (int j = 0; j < kPanelsN; j++) {
      const Pack<4> scale_b = load<4>(scales_b + j * kPanel);
#pragma unroll
      for (int i = 0; i < kPanelsM; i++) {
        const Pack<2> scale_a = load<2>(scales_a + i * kPanel);
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
          for (int c = 0; c < 4; c++) {
            const int at = r * 2 + c / 2;  // of the unit's d, in b's column c % 2
            sum[i][j][r][c] =
                join<kDigits>(hh[i][j][c % 2][at], kDigits == 2 ? mixed[i][j][c % 2][kDigits == 2 ? at : 0] : 0,
                              scale_a.x[r], scale_b.x[c], sum[i][j][r][c]);
          }
        }
      }
    }
  }

  forget(first_row);
  forget(first_column);
#pragma unroll
  for (int j = 0; j < kPanelsN; j++) {
    const int column = first_column + j * kPanel;
    float bias[4];
    load_four(bias, p.bias + column, p.bias ? p.N - column : 0, false);
#pragma unroll
    for (int i = 0; i < kPanelsM; i++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int row = first_row + i * kPanel + r;
#pragma unroll
        for (int c = 0; c < 4; c++) {
          if (p.bias) sum[i][j][r][c] = add(sum[i][j][r][c], bias[c]);
        }
        store_four(p.out + (int64_t)row * p.N + column, sum[i][j][r], row < p.M ? p.N - column : 0, p.wide);
      }
    }
  }
}

// ---------------------------------------------------------------- launchers

// 128 x 128 outputs by 8 warps, one block on a multiprocessor; 64 x 64 by 4 warps, for products of few tiles.
template <int kDigits>
using LargeTile = DigitTile<kDigits, 4, 2, 2, 4, 1>;
template <int kDigits>
using SmallTile = DigitTile<kDigits, 2, 2, 2, 2, 3>;

// From so many large tiles on, the multiprocessors of an H100; small ones read twice the bytes. A constant, so that a
// tile is a function of the problem.
constexpr int64_t kLargeTiles = 132;

int matmul_digits_tile_for(int64_t M, int64_t N) {
  return (M + 127) / 128 * ((N + 127) / 128) >= kLargeTiles ? kLargeDigitTile : kSmallDigitTile;
}

template <class T>
static void launch_tile(Stream cuda_stream, const Product& p) {
  const int64_t tiles = (int64_t)((p.M + T::kM - 1) / T::kM) * ((p.N + T::kN - 1) / T::kN);
  SAMEBITS_LAUNCH(matmul_digits_tile<T>, dim3((unsigned)tiles), dim3(T::kThreads), T::kBytes, cuda_stream, p);
}

template <int kDigits>
static void multiply(Stream cuda_stream, Product p, const float* a, const float* b, const uint8_t* kept,
                     const Blocks& blocks, int layout, int tile) {
  const int64_t count = blocks.count();
  const int64_t left = operand_bytes(p.M, count, kDigits), right = kept ? 0 : operand_bytes(p.N, count, kDigits);
  const Scratch memory(cuda_stream, (size_t)(left + right));  // both are multiples of 64 bytes
  p.a = operand_in(memory.as<uint8_t>(), p.M, count, kDigits);
  p.b = operand_in(kept ? kept : memory.as<uint8_t>() + left, p.N, count, kDigits);
  cut<kDigits>(cuda_stream, p.a, a, p.M, blocks, layout == 2, false);
  if (!kept) cut<kDigits>(cuda_stream, p.b, b, p.N, blocks, layout != 0, true);
  tile == kLargeDigitTile ? launch_tile<LargeTile<kDigits>>(cuda_stream, p)
                          : launch_tile<SmallTile<kDigits>>(cuda_stream, p);
}

void matmul_digits_with_tile(Stream cuda_stream, float* out, const float* a, const float* b, const uint8_t* kept,
                             const float* bias, int64_t M, int64_t N, int64_t K, int layout, bool accumulate,
                             int digits, int64_t sequence, int tile) {
  if (M == 0 || N == 0) return;
  const Product p{out, {}, {}, bias, (int)M, (int)N, accumulate, N % 4 == 0 && aligned(out)};
  const auto run = digits == 2 ? multiply<2> : multiply<1>;
  run(cuda_stream, p, a, b, kept, Blocks(K, sequence), layout, tile);
}

void matmul_digits(Stream cuda_stream, float* out, const float* a, const float* b, const uint8_t* kept,
                   const float* bias, int64_t M, int64_t N, int64_t K, int layout, bool accumulate, int digits,
                   int64_t sequence) {
  matmul_digits_with_tile(cuda_stream, out, a, b, kept, bias, M, N, K, layout, accumulate, digits, sequence,
                          matmul_digits_tile_for(M, N));
}

}  // namespace device
}  // namespace samebits
