// Walking the words of a tensor, for results that are integers: no rounding, so atomics on them may come in any order.
//
// Block k of 256 threads does words 8192 k to 8192 k + 8191; thread t walks words t, t + 256, ... of them. Any n.
#pragma once

#include "pack.h"

namespace samebits {
namespace device {

constexpr int kWordThreads = 256, kWordsPerBlock = 8192;
typedef unsigned long long Word64;

static __global__ void set_word_kernel(Word64* out, Word64 value) { *out = value; }

}  // namespace device
}  // namespace samebits
