// Digits: a block of values as small integers under one power of two, and the way back to fp32 (int8x3, int8x1).
//
// Sums of the digits' products are exact, so their order is free; every rounding is in this file.
#pragma once

#include "float.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kDigitBlock = 128;         // values of K under one exponent
constexpr int kLeastExponent = -100;     // smaller values are cut under this one
constexpr int kLargestExponent = 128;    // above: a NaN or an infinity is in the block
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even

SAMEBITS_HD float power_of_two(int e) { return from_bits((uint32_t)(e + 127) << 23); }

// The bits of |x|, which are ordered as |x| is; NaN and infinity lie above every number.
SAMEBITS_HD uint32_t magnitude(float x) { return to_bits(x) & 0x7fffffffu; }

// E with 2^(E-1) <= m < 2^E, of the magnitude of the largest value of a block.
SAMEBITS_HD int digit_exponent(uint32_t largest) {
  const int e = (int)(largest >> 23) - 126;
  return e < kLeastExponent ? kLeastExponent : e;
}

// What the values of a block are multiplied by; 0: all its digits are 0.
SAMEBITS_HD float digit_factor(int e) { return e > kLargestExponent ? 0.0f : power_of_two(7 - e); }

// |y| < 128, or what 0 stands for.
SAMEBITS_HD float scaled(float x, float factor) { return factor == 0.0f ? 0.0f : mul(x, factor); }

// The nearest integer, ties to even, held in [-127, 127].
SAMEBITS_HD int digit(float y) {
  const int n = (int)(to_bits(add(y, kRounder)) - 0x4b400000u);
  const int above = n < -127 ? -127 : n;
  return above > 127 ? 127 : above;
}

// The second digit: of what the first has left, 256 times finer.
SAMEBITS_HD int low_digit(float y, int high) { return digit(mul(sub(y, (float)high), 256.0f)); }

// 2^(E-11) with two digits, 2^(E-7) with one; NaN if the block holds a NaN or an infinity.
template <int kDigits>
SAMEBITS_HD float digit_scale(int e) {
  return e > kLargestExponent ? from_bits(0x7fc00000u) : power_of_two(e - (kDigits == 2 ? 11 : 7));
}

// What the other factor is multiplied by where a token's exponent is folded into it: its digits then count as E = 7.
SAMEBITS_HD float digit_fold(int e) { return e > kLargestExponent ? from_bits(0x7fc00000u) : power_of_two(e - 7); }
constexpr int kFoldedExponent = 7;

// A block's sums as fp32: hh of the products of high digits, c of the mixed ones (two digits only).
template <int kDigits>
SAMEBITS_HD float join(int hh, int c, float scale_a, float scale_b, float sum) {
  const float t = (float)(kDigits == 2 ? hh * 256 + c : hh);  // one rounding of an exact integer below 2^30
  return fma_(mul(t, scale_a), scale_b, sum);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
