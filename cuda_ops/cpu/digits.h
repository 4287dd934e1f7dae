// Operands of products in digits: where they lie.
//
// An operand is cut along K into blocks and lies in panels of 16 rows: [panel][block][digit][32][16][4], four digits of
// a row side by side; a left one that was cut along its rows is [panel][block][digit][16][128]. A right operand has
// scales; a left one sums of its digits as well, see dot.h. A block shorter than 128 leaves the rest of its place
// unused, but for zeros up to a multiple of 4.
#pragma once

#include <stdint.h>

#include "../numerics/digits.h"
#include "dot.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kPanel = 16;                         // rows of a panel
constexpr int kBlockBytes = kDigitBlock * kPanel;  // of one block of a panel, for one digit

// Where blocks of K lie: they begin anew with every sequence, and a chain of K values without one is one sequence.
struct Blocks {
  int64_t K, sequence, each;  // each: blocks of a whole sequence
  Blocks(int64_t K, int64_t sequence) : K(K), sequence(sequence < K && sequence > 0 ? sequence : K) {
    each = (this->sequence + kDigitBlock - 1) / kDigitBlock;
  }
  int64_t count() const { return K == 0 ? 0 : K / sequence * each + (K % sequence + kDigitBlock - 1) / kDigitBlock; }
  int64_t first(int64_t b) const { return b / each * sequence + b % each * kDigitBlock; }
  int64_t length(int64_t b) const {
    const int64_t start = first(b), end = (b / each + 1) * sequence < K ? (b / each + 1) * sequence : K;
    return end - start < kDigitBlock ? end - start : kDigitBlock;
  }
};

static inline int64_t panels_of(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

// An operand in memory; of its panel p and block b. Strides of scales may be 0: the same for all.
template <int kDigits>
struct Operand {
  uint8_t* digits;
  float* scales;
  int32_t* sums;  // [digit][16] per block, only of a left operand
  int64_t blocks, scale_panel, scale_block;

  uint8_t* at(int64_t p, int64_t b) const { return digits + (p * blocks + b) * kDigits * kBlockBytes; }
  float* scale(int64_t p, int64_t b) const { return scales + p * scale_panel + b * scale_block; }
  int32_t* sum(int64_t p, int64_t b) const { return sums + (p * blocks + b) * kDigits * kPanel; }

  static int64_t bytes(int64_t panels, int64_t blocks, bool left) {
    return panels * blocks * (kDigits * kBlockBytes + kPanel * 4 * (left ? 1 + kDigits : 1));
  }
  static Operand in(void* memory, int64_t panels, int64_t blocks, bool left) {
    Operand o{(uint8_t*)memory, nullptr, nullptr, blocks, blocks * kPanel, kPanel};
    o.scales = (float*)(o.digits + panels * blocks * kDigits * kBlockBytes);
    if (left) o.sums = (int32_t*)(o.scales + panels * blocks * kPanel);
    return o;
  }
};

}  // namespace SAMEBITS_ISA
}  // namespace samebits
