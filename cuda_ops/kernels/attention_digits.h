// Attention in digits: a head's rows, cut once, in the order in which a warp hands them to the matrix unit; scores of
// 16 rows against 16, and sums over 128 tokens with weights that never leave the registers.
//
// The scale of a row of q, k, v or dout is that of its token, over all features of the head. A fragment is what one
// lane holds of 16 rows and 32 of K: its words at steps t and t + 4 of rows 2 g and 2 g + 1, 16 bytes; 32 lanes lie
// side by side. The same fragment serves as left operand (rows 2 g, 2 g + 1 are the unit's g, g + 8) or right one
// (columns g of two). A lane then holds, of 16 x 16 scores, rows 2 g and 2 g + 1 at columns 4 t + 0..3: the four
// neighbours that are one word of the left operand of a sum over those columns.
//
//   features[unit][panel of 16 tokens][32 features][digit][lane]       sums over features
//   tokens[unit][block of 128 tokens][panel of 16 features][32 tokens][digit][lane]   sums over tokens
//   scales, folds[unit][token], in whole blocks of 128 tokens
#pragma once

#include <type_traits>

#include "../numerics/exp_log.h"
#include "attention_tile.h"
#include "mma.h"
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kPanel = 16, kBlockPanels = kDigitBlock / kPanel;
constexpr int kPiece = 4;                               // panels of features that a warp sums
constexpr int kWarps = 4, kDigitThreads = 32 * kWarps;  // each warp has 16 rows of its own
constexpr int kCutTokens = 256;                         // threads: a warp per panel of a block

// Rows x + b * sequence + h * head + t * row of a tensor.
struct HeadRows {
  const float* x;
  int64_t sequence, head;
  int row;
};

struct Tokens {
  uint4 *features, *tokens;  // tokens: null where no sum over them is asked for
  float *scales, *folds;
};

struct Heads {
  int units, H, T, size;  // T tokens in each
  __host__ __device__ int blocks() const { return (T + kDigitBlock - 1) / kDigitBlock; }
  __host__ __device__ int panels() const { return blocks() * kBlockPanels; }
  __host__ __device__ int chunks() const { return (size + 31) / 32; }
  __host__ __device__ int feature_panels() const { return (size + kPanel - 1) / kPanel; }
};

// ---------------------------------------------------------------- cutting

// Pieces of a scratch buffer, 256 bytes apart at least. A first walk without a buffer counts them.
struct Room {
  uint8_t* base;
  size_t used = 0;
  explicit Room(void* memory) : base((uint8_t*)memory) {}
  void* take(int64_t bytes) {
    void* const p = base ? base + used : nullptr;
    used += (size_t)((bytes + 255) / 256 * 256);
    return p;
  }
  float* floats(const Heads& h) { return (float*)take((int64_t)h.units * h.panels() * kPanel * 4); }
  Tokens tokens(const Heads& h, int digits, bool along_tokens) {
    const int64_t panels = (int64_t)h.units * h.panels(), blocks = (int64_t)h.units * h.blocks();
    Tokens t;
    t.features = (uint4*)take(panels * h.chunks() * digits * 512);
    t.tokens = along_tokens ? (uint4*)take(blocks * h.feature_panels() * 4 * digits * 512) : nullptr;
    t.scales = floats(h);
    t.folds = floats(h);
    return t;
  }
};

// One block of 128 tokens of a head: a warp has 16 of them, four lanes a token.
template <int kDigits>
static __global__ void __launch_bounds__(kCutTokens) cut_tokens_kernel(Tokens out, HeadRows rows, Heads h, bool wide) {
  SAMEBITS_DYNAMIC_SHARED(uint8_t, bytes);  // [digit][128 tokens][features], for the fragments along tokens
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int unit = (int)blockIdx.x / h.blocks(), block = (int)blockIdx.x % h.blocks(), chunks = h.chunks();
  const int stride = chunks * 32 + 4, digit_stride = kDigitBlock * stride;
  const int64_t panel = (int64_t)unit * h.panels() + block * kBlockPanels + warp;
  const float* const head = rows.x + unit / h.H * rows.sequence + unit % h.H * rows.head;
  float factors[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int token = block * kDigitBlock + warp * kPanel + 2 * g + r, count = token < h.T ? h.size : 0;
    uint32_t largest = 0;
#pragma unroll 4
    for (int step = t; step < chunks * 8; step += 4) {
      float y[4];
      load_four(y, head + (int64_t)token * rows.row + step * 4, count - step * 4, wide);
#pragma unroll
      for (int n = 0; n < 4; n++) largest = larger(largest, magnitude(y[n]));
    }
    largest = larger(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = larger(largest, __shfl_xor_sync(~0u, largest, 2));
    const int e = digit_exponent(largest);
    factors[r] = digit_factor(e);
    if (t == 0) {
      out.scales[panel * kPanel + 2 * g + r] = digit_scale<kDigits>(e);
      out.folds[panel * kPanel + 2 * g + r] = digit_fold(e);
    }
  }
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; chunk++) {
    uint32_t words[kDigits][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int r = i % 2, own = warp * kPanel + 2 * g + r, token = block * kDigitBlock + own;
      const int step = chunk * 8 + t + 4 * (i / 2);
      float y[4];
      load_four(y, head + (int64_t)token * rows.row + step * 4, (token < h.T ? h.size : 0) - step * 4, wide);
      uint32_t low;
      cut_four<kDigits>(&words[0][i], &low, y, factors[r]);
      if (kDigits == 2) words[kDigits - 1][i] = low;
#pragma unroll
      for (int n = 0; n < kDigits; n++) {
        if (out.tokens) *(uint32_t*)(bytes + n * digit_stride + own * stride + step * 4) = words[n][i];
      }
    }
#pragma unroll
    for (int n = 0; n < kDigits; n++) {
      out.features[((panel * chunks + chunk) * kDigits + n) * 32 + lane] =
          make_uint4(words[n][0], words[n][1], words[n][2], words[n][3]);
    }
  }
  if (!out.tokens) return;
  __syncthreads();
  const int count = h.feature_panels() * 4 * kDigits;
  for (int i = warp; i < count; i += kCutTokens / 32) {
    const int n = i % kDigits, chunk = i / kDigits % 4, feature = i / (4 * kDigits) * kPanel + 2 * g;
    uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
    for (int far = 0; far < 2; far++) {
      const uint8_t* const from = bytes + n * digit_stride + (chunk * 32 + (t + 4 * far) * 4) * stride + feature;
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const uint32_t pair = *(const uint16_t*)(from + k * stride);
        words[2 * far] |= (pair & 255u) << (8 * k);
        words[2 * far + 1] |= (pair >> 8) << (8 * k);
      }
    }
    out.tokens[(((int64_t)unit * h.blocks() + block) * count + i) * 32 + lane] =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
}

template <int kDigits>
static void cut_tokens(Stream cuda_stream, const Tokens& out, const HeadRows& rows, const Heads& h) {
  const bool wide =
      h.size % 4 == 0 && rows.row % 4 == 0 && rows.head % 4 == 0 && rows.sequence % 4 == 0 && aligned(rows.x);
  const size_t bytes = out.tokens ? (size_t)kDigits * kDigitBlock * (h.chunks() * 32 + 4) : 0;
  SAMEBITS_LAUNCH(cut_tokens_kernel<kDigits>, dim3(grid_of((int64_t)h.units * h.blocks())), dim3(kCutTokens), bytes,
                  cuda_stream, out, rows, h, wide);
}

// ---------------------------------------------------------------- scores

static __device__ __forceinline__ void load_fragment(uint32_t (&words)[4], const uint4* p) {
  const uint4 v = *p;
  words[0] = v.x;
  words[1] = v.y;
  words[2] = v.z;
  words[3] = v.w;
}

// A panel of rows as left operand; up to kHeld chunks of features stay in registers, others are read where they are
// used.
template <int kDigits, int kHeld>
struct Left {
  uint32_t words[kHeld == 0 ? 1 : kHeld][kDigits][4];
  const uint4* memory;

  __device__ __forceinline__ Left(const uint4* features, int64_t panel, int chunks, int lane)
      : memory(features + panel * chunks * kDigits * 32 + lane) {
#pragma unroll
    for (int chunk = 0; chunk < kHeld; chunk++) {
#pragma unroll
      for (int n = 0; n < kDigits; n++) load_fragment(words[chunk][n], memory + (chunk * kDigits + n) * 32);
    }
  }
};

// hh and mixed[b's column][the unit's d] += a b, of one fragment each.
template <int kDigits>
static __device__ __forceinline__ void multiply_fragments(int32_t (&hh)[2][4], int32_t (&mixed)[2][4],
                                                          const uint32_t (&a)[kDigits][4],
                                                          const uint32_t (&b)[kDigits][4]) {
#pragma unroll
  for (int c = 0; c < 2; c++) {
    multiply_digits(hh[c], a[0], b[0][c], b[0][c + 2], hh[c]);
    if (kDigits == 2) {
      multiply_digits(mixed[c], a[0], b[kDigits - 1][c], b[kDigits - 1][c + 2], mixed[c]);
      multiply_digits(mixed[c], a[kDigits - 1], b[0][c], b[0][c + 2], mixed[c]);
    }
  }
}

// s[r][c] = over the features of row 2 g + r of the left panel and row 4 t + c of a right one, in blocks of 128. The
// scales of the operand that is written first: of rows if kRowsFirst, else of columns.
template <int kDigits, int kHeld, bool kRowsFirst>
static __device__ __forceinline__ void scores(float (&s)[2][4], const Left<kDigits, kHeld>& left, const uint4* right,
                                              int chunks, const float (&row_scales)[2], const Pack<4>& column_scales) {
#pragma unroll
  for (int i = 0; i < 8; i++) s[i / 4][i % 4] = 0.0f;
  const int count = kHeld ? kHeld : chunks;
#pragma unroll 1
  for (int first = 0; first < count; first += 4) {
    int32_t hh[2][4] = {}, mixed[2][4] = {};
#pragma unroll
    for (int i = 0; i < (kHeld ? kHeld : 4); i++) {
      const int chunk = first + i;
      if (kHeld == 0 && chunk >= count) break;
      uint32_t a[kDigits][4], b[kDigits][4];
#pragma unroll
      for (int n = 0; n < kDigits; n++) load_fragment(b[n], right + (chunk * kDigits + n) * 32);
      if constexpr (kHeld == 0) {
#pragma unroll
        for (int n = 0; n < kDigits; n++) load_fragment(a[n], left.memory + (chunk * kDigits + n) * 32);
        multiply_fragments<kDigits>(hh, mixed, a, b);
      } else {
        multiply_fragments<kDigits>(hh, mixed, left.words[i], b);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int c = 0; c < 4; c++) {
        const float of_row = row_scales[r], of_column = column_scales.x[c];
        const int at = r * 2 + c / 2;
        s[r][c] = join<kDigits>(hh[c % 2][at], mixed[c % 2][at], kRowsFirst ? of_row : of_column,
                                kRowsFirst ? of_column : of_row, s[r][c]);
      }
    }
  }
}

// ---------------------------------------------------------------- sums over tokens

// A thread's own numbers, of its two rows and four columns of each panel of a block, while a loop that is not unrolled
// walks the panels: no other thread reads them.
typedef Pack<4> OwnMemory[2 * kBlockPanels][kDigitThreads];
struct Own {
  Pack<4> (*at)[kDigitThreads];
  __device__ __forceinline__ Pack<4>& operator()(int panel, int r) const { return at[2 * panel + r][threadIdx.x]; }
};

// Weights of 128 tokens as left operand: folded(panel, r), four of them, are times their folds already, and 0 where
// they are not seen. largest: of the magnitudes that the thread has.
template <int kDigits>
struct Weights {
  uint32_t words[4][kDigits][4];
  float scales[2];  // of rows 2 g and 2 g + 1

  template <class F>
  __device__ __forceinline__ Weights(const uint32_t (&largest)[2], F folded) {
    float factors[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      uint32_t most = larger(largest[r], __shfl_xor_sync(~0u, largest[r], 1));
      most = larger(most, __shfl_xor_sync(~0u, most, 2));
      const int e = digit_exponent(most);
      factors[r] = digit_factor(e);
      scales[r] = digit_scale<kDigits>(e);
    }
#pragma unroll
    for (int panel = 0; panel < kBlockPanels; panel++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const Pack<4> w = folded(panel, r);
        uint32_t low;
        cut_four<kDigits>(&words[panel / 2][0][panel % 2 * 2 + r], &low, w.x, factors[r]);
        if (kDigits == 2) words[panel / 2][kDigits - 1][panel % 2 * 2 + r] = low;
      }
    }
  }
};

// sums[panel][r][c] of row 2 g + r and feature 16 panel + 4 t + c: one block of tokens more. right: the first of the
// piece's panels in that block, `panels` of them; chunks of 32 tokens from first to end - 1 have weights.
template <int kDigits>
static __device__ __forceinline__ void sum_tokens(float (&sums)[kPiece][2][4], const Weights<kDigits>& weights,
                                                  const uint4* right, int panels, int first, int end) {
#pragma unroll
  for (int panel = 0; panel < kPiece; panel++) {
    if (panel >= panels) break;
    int32_t hh[2][4] = {}, mixed[2][4] = {};
#pragma unroll
    for (int chunk = 0; chunk < 4; chunk++) {
      if (chunk < first || chunk >= end) continue;
      uint32_t b[kDigits][4];
#pragma unroll
      for (int n = 0; n < kDigits; n++) load_fragment(b[n], right + ((panel * 4 + chunk) * kDigits + n) * 32);
      multiply_fragments<kDigits>(hh, mixed, weights.words[chunk], b);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int c = 0; c < 4; c++) {
        const int at = r * 2 + c / 2;
        sums[panel][r][c] = join<kDigits>(hh[c % 2][at], mixed[c % 2][at], weights.scales[r],
                                          digit_scale<kDigits>(kFoldedExponent), sums[panel][r][c]);
      }
    }
  }
}

static __device__ __forceinline__ void clear(float (&sums)[kPiece][2][4]) {
#pragma unroll
  for (int i = 0; i < kPiece * 8; i++) sums[i / 8][i / 4 % 2][i % 4] = 0.0f;
}

// Rows `token` and token + 1 below `count` of out (rows `row` apart), features first_feature + .. below `size`, each
// times its row's factor if kScaled.
template <bool kScaled>
static __device__ __forceinline__ void store_sums(float* out, int64_t row, const float (&sums)[kPiece][2][4],
                                                  const float (&factors)[2], int token, int count, int first_feature,
                                                  int size, bool wide) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    if (token + r >= count) continue;
#pragma unroll
    for (int panel = 0; panel < kPiece; panel++) {
      const int feature = first_feature + panel * kPanel;
      if (feature >= size) continue;
      float result[4];
#pragma unroll
      for (int c = 0; c < 4; c++) {
        result[c] = kScaled ? mul(sums[panel][r][c], factors[r]) : sums[panel][r][c];
      }
      store_four(out + (token + r) * row + feature, result, size - feature, wide);
    }
  }
}

// The number of chunks that a kernel holds in registers, for heads of `size`: f(constant).
template <class F>
static void with_held(int size, F f) {
  if (size <= 32) {
    f(std::integral_constant<int, 1>());
  } else if (size <= 64) {
    f(std::integral_constant<int, 2>());
  } else {
    f(std::integral_constant<int, 0>());
  }
}

}  // namespace device
}  // namespace samebits
