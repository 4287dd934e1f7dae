// Scratch memory of one thread that grows to the largest request and is then reused: constant memory.
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../numerics/float.h"

namespace samebits {
namespace SAMEBITS_ISA {

struct Scratch {
  float* data;
  int64_t capacity;

  // 64-byte aligned, contents undefined.
  float* reserve(int64_t count) {
    if (count > capacity) {
      free(data);
      capacity = (count + 15) / 16 * 16;
      data = (float*)aligned_alloc(64, (size_t)capacity * sizeof(float));
      if (!data) {
        fprintf(stderr, "error: out of memory: %lld bytes of scratch\n", (long long)(capacity * 4));
        abort();
      }
    }
    return data;
  }
};

}  // namespace SAMEBITS_ISA
}  // namespace samebits
