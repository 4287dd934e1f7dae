// The tile that multiplies operands of digits.
//
// order: per output, blocks of K ascending, each joined to the chain.
#pragma once

#include <stdint.h>

#include "digits.h"

namespace samebits {
namespace SAMEBITS_ISA {

// How a left operand lies: cut along its rows, or from columns.
enum Layout { kAlongRows, kFromColumns };

// One tile of out, rows `row` .. of panel p of a, panels q .. of b, over blocks first .. last - 1, whose lengths are
// 4 steps[block - first]; a's digits before step `from` are left out (one block only).
template <class Dot, int kDigits, Layout kLayout, int kRows, int kPanels>
static inline __attribute__((always_inline)) void digit_tile(float* out, int64_t stride, const Operand<kDigits>& a,
                                                             int64_t p, int row, const Operand<kDigits>& b, int64_t q,
                                                             int64_t first, int64_t last, const int* steps, int from,
                                                             bool accumulate) {
  constexpr int kVecs = kPanel / Dot::kLanes;
  constexpr int kRow = kLayout == kAlongRows ? kDigitBlock : 4, kStep = kLayout == kAlongRows ? 4 : 4 * kPanel;
  typename Dot::Floats acc[kRows][kPanels][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 3
    for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) {
        acc[i][j][v] = accumulate ? Dot::load(out + i * stride + j * kPanel + v * Dot::kLanes) : Dot::all(0.0f);
      }
    }
  }
  const int64_t panel_bytes = b.blocks * kDigits * kBlockBytes;
  for (int64_t block = first; block < last; block++) {
    const int8_t* left = (const int8_t*)a.at(p, block) + kRow * row;
    const uint8_t* right = b.at(q, block);
    const int32_t* sums = a.sum(p, block) + row;
    typename Dot::Ints hh[kRows][kPanels][kVecs], cc[kRows][kPanels][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 3
      for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; v++) {
          hh[i][j][v] = Dot::start(Dot::kBiased ? sums[i] : 0);
          if (kDigits == 2) cc[i][j][v] = Dot::start(Dot::kBiased ? sums[kPanel + i] : 0);
        }
      }
    }
    const int count = steps[block - first];
    for (int k = from; k < count; k++) {
      typename Dot::Ints high[kPanels][kVecs], low[kPanels][kVecs];
#pragma GCC unroll 3
      for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; v++) {
          const uint8_t* at = right + j * panel_bytes + k * (4 * kPanel) + v * (4 * Dot::kLanes);
          high[j][v] = Dot::right(at);
          if (kDigits == 2) low[j][v] = Dot::right(at + kBlockBytes);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kRows; i++) {
        const typename Dot::Ints l = Dot::left(left + k * kStep + kRow * i);
        const typename Dot::Ints m = kDigits == 2 ? Dot::left(left + k * kStep + kRow * i + kBlockBytes) : l;
#pragma GCC unroll 3
        for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
          for (int v = 0; v < kVecs; v++) {
            Dot::dot(hh[i][j][v], high[j][v], l);
            if (kDigits == 2) {
              Dot::dot(cc[i][j][v], low[j][v], l);
              Dot::dot(cc[i][j][v], high[j][v], m);
            }
          }
        }
      }
    }
    const float* left_scale = a.scale(p, block) + row;
#pragma GCC unroll 3
    for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) {
        const typename Dot::Floats scale = Dot::load(b.scale(q + j, block) + v * Dot::kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; i++) {  // join() of numerics/digits.h
          typename Dot::Floats t = Dot::to_float(hh[i][j][v]);
          if (kDigits == 2) t = Dot::fma(t, Dot::all(256.0f), Dot::to_float(cc[i][j][v]));
          acc[i][j][v] = Dot::fma(Dot::times(t, Dot::all(left_scale[i])), scale, acc[i][j][v]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 3
    for (int j = 0; j < kPanels; j++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) Dot::store(out + i * stride + j * kPanel + v * Dot::kLanes, acc[i][j][v]);
    }
  }
}

// Rows row .. row + kRows - 1 and `panels` panels, as many as a tile has or fewer.
template <class Dot, int kDigits, Layout kLayout>
static inline void digit_tiles(float* out, int64_t stride, const Operand<kDigits>& a, int64_t p, int row,
                               const Operand<kDigits>& b, int64_t q, int64_t panels, int64_t first, int64_t last,
                               const int* steps, int from, bool accumulate) {
  constexpr int kRows = Dot::kRows[kDigits - 1], kMost = Dot::kPanels[kDigits - 1];
  if (panels == kMost) {
    digit_tile<Dot, kDigits, kLayout, kRows, kMost>(out, stride, a, p, row, b, q, first, last, steps, from, accumulate);
  } else if (kMost > 2 && panels == 2) {
    constexpr int kTwo = kMost < 2 ? 1 : 2;
    digit_tile<Dot, kDigits, kLayout, kRows, kTwo>(out, stride, a, p, row, b, q, first, last, steps, from, accumulate);
  } else {
    digit_tile<Dot, kDigits, kLayout, kRows, 1>(out, stride, a, p, row, b, q, first, last, steps, from, accumulate);
  }
}

// m rows of panel p of a times panels 0 .. panels - 1 of b, into a buffer whose rows have room for whole tiles.
template <class Dot, int kDigits, Layout kLayout>
static inline void digit_panel(float* out, int64_t stride, const Operand<kDigits>& a, int64_t p, int64_t m,
                               const Operand<kDigits>& b, int64_t panels, int64_t first, int64_t last, const int* steps,
                               int from, bool accumulate) {
  constexpr int kRows = Dot::kRows[kDigits - 1], kMost = Dot::kPanels[kDigits - 1];
  for (int64_t q = 0, some; q < panels; q += some) {
    const int64_t rest = panels - q;
    some = rest == kMost + 1 && kMost > 2 ? 2 : rest < kMost ? rest : kMost;  // 2 + 2 keep more sums going than 3 + 1
    for (int row = 0; row < (int)m; row += kRows) {
      digit_tiles<Dot, kDigits, kLayout>(out + row * stride + q * kPanel, stride, a, p, row, b, q, some, first, last,
                                         steps, from, accumulate);
    }
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
