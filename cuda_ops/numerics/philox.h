// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
// easy as 1, 2, 3" (SC'11, section 4.3). A random number is a pure function of (seed, stream, index): never
// of a thread, block or rank.
//
// counter = (block low, block high, stream, 0), key = (seed low, seed high), and element i of a stream is
// word i mod 4 of block i / 4.
#pragma once

#include "exp_log.h"
#include "turn.h"

namespace samebits {
namespace SAMEBITS_ISA {

struct PhiloxBlock {
  uint32_t word[4];
};

SAMEBITS_HD PhiloxBlock philox4x32(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * counter.word[0];
    const uint64_t p1 = (uint64_t)0xCD9E8D57u * counter.word[2];
    PhiloxBlock next;
    next.word[0] = (uint32_t)(p1 >> 32) ^ counter.word[1] ^ key0;
    next.word[1] = (uint32_t)p1;
    next.word[2] = (uint32_t)(p0 >> 32) ^ counter.word[3] ^ key1;
    next.word[3] = (uint32_t)p0;
    counter = next;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

SAMEBITS_HD PhiloxBlock philox_block(uint64_t seed, uint32_t stream, uint64_t block) {
  PhiloxBlock counter;
  counter.word[0] = (uint32_t)block;
  counter.word[1] = (uint32_t)(block >> 32);
  counter.word[2] = stream;
  counter.word[3] = 0;
  return philox4x32(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
}

// Uniform in [0, 1): the top 24 bits of a word, exact in fp32.
SAMEBITS_HD float uniform_from_word(uint32_t word) { return mul((float)(word >> 8), 0x1p-24f); }

// Standard normal pair by Box and Muller (1958): the first word gives the radius, from (0, 1], the second
// the angle. Elements 2i and 2i + 1 of a stream are the cosine and the sine of word pair i.
SAMEBITS_HD void normal_from_words(uint32_t word0, uint32_t word1, float* first, float* second) {
  const float u = mul((float)((word0 >> 8) + 1u), 0x1p-24f);
  const float radius = sqrt_(mul(-2.0f, log_(u)));
  float cosine, sine;
  cos_sin_turn(uniform_from_word(word1), &cosine, &sine);
  *first = mul(radius, cosine);
  *second = mul(radius, sine);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
