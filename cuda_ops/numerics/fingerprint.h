// A 64-bit fingerprint of 32-bit words: an integer sum, so any order and any sharding give the same value.
//
// Word w at position i adds (w xor high(k)) * (k or 1), k = (i + 1) * 0x9E3779B97F4A7C15 mod 2^64. A changed word
// always changes the sum (the factor is odd), and so does a swap of two different words but for odds of
// about 2^-32. It localises; SHA-256 certifies.
#pragma once

#include "float.h"

namespace samebits {
namespace SAMEBITS_ISA {

SAMEBITS_HD uint64_t fingerprint_mix(uint32_t word, uint64_t position) {
  const uint64_t k = (position + 1) * 0x9E3779B97F4A7C15ull;
  return (uint64_t)(word ^ (uint32_t)(k >> 32)) * (k | 1);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
