// The matrix unit of compute capability 8.0 and later: a warp multiplies 16 x 32 by 32 x 8 digits, or in bf16 16 x 16
// by 16 x 8.
//
//   multiply_digits(d, a, b0, b1, c)   d = a b + c, exact int32; all 32 lanes take part
//   multiply_bf16(d, a, b0, b1, c)     the same of bf16 pairs, in fp32
//   load_fragment(words, row)          four groups of 8 rows x 16 bytes of shared memory; lane i names row i % 8 of
//                                      group i / 8 and gets, as words[n], bytes 4 t + 0..3 of row g of group n
//
// With g = lane / 4 and t = lane % 4: a[0], a[1] are rows g and g + 8 at k = 4 t + 0..3, a[2], a[3] the same at k + 16;
// b0, b1 are column g at k = 4 t + 0..3 and k + 16; d[0], d[1] are row g, columns 2 t and 2 t + 1, d[2], d[3] row g
// + 8. In bf16 a word is k = 2 t and 2 t + 1, and the next one k + 8. Tests without a GPU have tests/cuda_on_cpu/mma.h
// in place of the instructions.
//
// Why fp32 accumulators give the digits' integers: a digit is one of bf16's numbers, products and all sums of a block,
// in whatever order and tree, are integers below 2^22 (mixed sums: 256 x 127^2), and the unit keeps 24 bits from the
// largest addend's first one down, so that no bit is below what is kept: there is nothing to round or to cut off.
#pragma once

#include "../numerics/digits.h"
#include "launch.h"
#include "pack.h"

#if defined(SAMEBITS_CUDA_ON_CPU)
#include "../../tests/cuda_on_cpu/mma.h"
#else
namespace samebits {
namespace device {

static __device__ __forceinline__ void multiply_digits(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                       uint32_t b1, const int32_t (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, "
      "%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

static __device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                                     const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, "
      "%12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

static __device__ __forceinline__ void load_fragment(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

}  // namespace device
}  // namespace samebits
#endif

namespace samebits {
namespace device {

// Four digits as bf16, the first two and the last two: 2^23 + 128 + x has x + 128 as its last byte, and less 2^23 + 128
// is x, of which fp32's upper half is all.
static __device__ __forceinline__ void widen(uint32_t word, uint32_t* first, uint32_t* last) {
  const uint32_t above = word ^ 0x80808080u;
  uint32_t x[4];
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    x[i] = to_bits(sub(from_bits(__byte_perm(above, 0x4b000000u, 0x7540u | i)), 8388736.0f));
  }
  *first = __byte_perm(x[0], x[1], 0x7632);
  *last = __byte_perm(x[2], x[3], 0x7632);
}

// The two ways to multiply digits that lie as bytes, for tiles of 16-row panels. `kPanels` panels and kK values are a
// load_fragment(), of rows that `own` names; left() is one panel of a of it, right() eight columns of b.
struct IntegerUnit {
  using Sum = int32_t;
  static constexpr int kPanels = 1, kK = 32;
  // From group of rows to group, and from 16 bytes of k to the next.
  static __device__ __forceinline__ int own(int lane, int to_rows, int to_k) {
    return lane / 8 % 2 * to_rows + lane / 16 * to_k + lane % 8 * 16;
  }
  static __device__ __forceinline__ void left(uint32_t (&a)[4], const uint32_t (&words)[4], int) {
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = words[i];
  }
  static __device__ __forceinline__ void right(uint32_t (&b)[2], const uint32_t (&words)[4], int eight) {
    b[0] = words[eight];
    b[1] = words[eight + 2];
  }
  static __device__ __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                  const Sum (&c)[4]) {
    multiply_digits(d, a, b[0], b[1], c);
  }
  static __device__ __forceinline__ int whole(Sum x) { return x; }
};

// k of a fragment may be any, as long as a and b agree: the lane's four neighbours are its pair and that of k + 8.
struct Bf16Unit {
  using Sum = float;
  static constexpr int kPanels = 2, kK = 16;
  static __device__ __forceinline__ int own(int lane, int to_rows, int) { return lane / 8 * to_rows + lane % 8 * 16; }
  static __device__ __forceinline__ void left(uint32_t (&a)[4], const uint32_t (&words)[4], int panel) {
#pragma unroll
    for (int i = 0; i < 2; i++) widen(words[2 * panel + i], &a[i], &a[i + 2]);
  }
  static __device__ __forceinline__ void right(uint32_t (&b)[2], const uint32_t (&words)[4], int eight) {
    widen(words[eight], &b[0], &b[1]);
  }
  static __device__ __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                  const Sum (&c)[4]) {
    multiply_bf16(d, a, b[0], b[1], c);
  }
  // |x| < 2^22: its last bits, beside 1.5 * 2^23; a zero of either sign is 0.
  static __device__ __forceinline__ int whole(Sum x) { return (int)(to_bits(add(x, kRounder)) - to_bits(kRounder)); }
};

// Four digits of four neighbours along k, the first lowest; `low` are the second digits.
template <int kDigits>
static __device__ __forceinline__ void cut_four(uint32_t* high, uint32_t* low, const float* x, float factor) {
  uint32_t h = 0, l = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float y = scaled(x[i], factor);
    const int first = digit(y);
    h |= ((uint32_t)first & 255u) << (8 * i);
    if (kDigits == 2) l |= ((uint32_t)low_digit(y, first) & 255u) << (8 * i);
  }
  *high = h;
  *low = l;
}

static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) { return a < b ? b : a; }

// Four neighbours of which the first `count` exist, the others 0; wide: at once, where all four do.
static __device__ __forceinline__ void load_four(float (&y)[4], const float* x, int count, bool wide) {
  if (wide && count >= 4) {
    const Pack<4> four = load<4>(x);
#pragma unroll
    for (int n = 0; n < 4; n++) y[n] = four.x[n];
  } else {
#pragma unroll
    for (int n = 0; n < 4; n++) y[n] = n < count ? x[n] : 0.0f;
  }
}
static __device__ __forceinline__ void store_four(float* to, const float (&y)[4], int count, bool wide) {
  if (wide && count >= 4) {
    store<4>(to, Pack<4>{{y[0], y[1], y[2], y[3]}});
  } else {
#pragma unroll
    for (int n = 0; n < 4; n++) {
      if (n < count) to[n] = y[n];
    }
  }
}

}  // namespace device
}  // namespace samebits
