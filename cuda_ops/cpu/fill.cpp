// Random tensors as pure functions of (seed, stream, offset): the range of elements a thread fills cannot matter.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/philox.h"

namespace samebits {
namespace SAMEBITS_ISA {

// Calls write(i, block, word) with the four words of each Philox block that elements begin..end-1 touch.
template <class Write>
static inline void for_blocks(int64_t begin, int64_t end, uint64_t seed, uint32_t stream, uint64_t offset,
                              Write write) {
  uint64_t at = offset + (uint64_t)begin;
  const uint64_t last = offset + (uint64_t)end;
  while (at < last) {
    const PhiloxBlock block = philox_block(seed, stream, at / 4);
    for (; at < last; at++) {
      write((int64_t)(at - offset), block, (int)(at % 4));
      if (at % 4 == 3) {
        at++;
        break;
      }
    }
  }
}

void fill_normal(float* out, int64_t n, uint64_t seed, uint32_t stream, uint64_t offset, float mean, float std) {
  parallel_for(n, 16, [=](int64_t begin, int64_t end) {
    for_blocks(begin, end, seed, stream, offset, [=](int64_t i, const PhiloxBlock& block, int word) {
      float pair[2];
      normal_from_words(block.word[word & 2], block.word[(word & 2) + 1], &pair[0], &pair[1]);
      out[i] = fma_(std, pair[word & 1], mean);
    });
  });
}

void fill_uniform(float* out, int64_t n, uint64_t seed, uint32_t stream, uint64_t offset) {
  parallel_for(n, 16, [=](int64_t begin, int64_t end) {
    for_blocks(begin, end, seed, stream, offset,
               [=](int64_t i, const PhiloxBlock& block, int word) { out[i] = uniform_from_word(block.word[word]); });
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
