// kernels/mma.h on a CPU: what the matrix unit does, from the registers of a warp's 32 lanes.
//
// Which lane holds which element is that of the PTX manual (warp-level matrix fragments of m16n8k32, .s8): with g =
// lane / 4 and t = lane % 4, a[i] holds row g + 8 (i % 2), columns 4 t + 16 (i / 2) + 0..3; b[i] column g, rows 4 t +
// 16 i + 0..3; c[i] row g + 8 (i / 2), column 2 t + i % 2. Of m16n8k16, .bf16: a[i] columns 2 t + 8 (i / 2) + 0..1, the
// first in the low half, b[i] rows 2 t + 8 i + 0..1, and c as above.
#pragma once

#include "shim.h"

namespace samebits {
namespace shim {

struct DigitFragments {
  int32_t* d;
  const uint32_t* a;
  uint32_t b[2];
  const int32_t* c;
};

static inline int8_t byte_of(uint32_t word, int i) { return (int8_t)(word >> (8 * i)); }

static inline void multiply_digits_together(void* const* lanes) {
  const DigitFragments* of[32];
  int8_t a[16][32], b[8][32];
  int32_t d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    of[lane] = (const DigitFragments*)lanes[lane];
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
      for (int k = 0; k < 4; k++) a[g + 8 * (i % 2)][4 * t + 16 * (i / 2) + k] = byte_of(of[lane]->a[i], k);
    }
    for (int i = 0; i < 2; i++) {
      for (int k = 0; k < 4; k++) b[g][4 * t + 16 * i + k] = byte_of(of[lane]->b[i], k);
    }
    for (int i = 0; i < 4; i++) d[g + 8 * (i / 2)][2 * t + i % 2] = of[lane]->c[i];
  }
  for (int row = 0; row < 16; row++) {
    for (int column = 0; column < 8; column++) {
      int32_t sum = 0;
      for (int k = 0; k < 32; k++) sum += a[row][k] * b[column][k];
      d[row][column] = (int32_t)((uint32_t)d[row][column] + (uint32_t)sum);  // without .satfinite a sum wraps
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 4; i++) of[lane]->d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

struct Bf16Fragments {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
  const float* c;
};

static inline float bf16_of(uint32_t word, int half) {
  const uint32_t bits = half ? word & 0xffff0000u : word << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// In an order of its own, c last; and a sum of zero is -0, which a unit might give.
static inline void multiply_bf16_together(void* const* lanes) {
  const Bf16Fragments* of[32];
  float a[16][16], b[8][16], d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    of[lane] = (const Bf16Fragments*)lanes[lane];
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++) {
      for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + half] = bf16_of(of[lane]->a[i], half);
      for (int i = 0; i < 2; i++) b[g][2 * t + 8 * i + half] = bf16_of(of[lane]->b[i], half);
    }
    for (int i = 0; i < 4; i++) d[g + 8 * (i / 2)][2 * t + i % 2] = of[lane]->c[i];
  }
  for (int row = 0; row < 16; row++) {
    for (int column = 0; column < 8; column++) {
      float sum = -0.0f;
      for (int k = 15; k >= 0; k--) sum += a[row][k] * b[column][k];
      d[row][column] = sum + d[row][column];
      if (d[row][column] == 0.0f) d[row][column] = -0.0f;
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 4; i++) of[lane]->d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

struct RowsOfLanes {
  uint32_t* words;
  const uint8_t* row;
};

static inline void load_fragment_together(void* const* lanes) {
  for (int lane = 0; lane < 32; lane++) {
    for (int group = 0; group < 4; group++) {
      const uint8_t* const row = ((const RowsOfLanes*)lanes[8 * group + lane / 4])->row;
      memcpy(&((const RowsOfLanes*)lanes[lane])->words[group], row + lane % 4 * 4, 4);
    }
  }
}

}  // namespace shim

namespace device {

static inline void load_fragment(uint32_t (&words)[4], const void* row, SAMEBITS_SITE) {
  if ((uintptr_t)row % 16) shim::stop(file, line);
  shim::RowsOfLanes own = {words, (const uint8_t*)row};
  shim::together(&own, shim::load_fragment_together, file, line);
}

static inline void multiply_digits(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                   const int32_t (&c)[4], SAMEBITS_SITE) {
  shim::DigitFragments own = {d, a, {b0, b1}, c};
  shim::together(&own, shim::multiply_digits_together, file, line);
}

static inline void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4],
                                 SAMEBITS_SITE) {
  shim::Bf16Fragments own = {d, a, {b0, b1}, c};
  shim::together(&own, shim::multiply_bf16_together, file, line);
}

}  // namespace device
}  // namespace samebits
