// Values in registers as digits in memory.
//
// order: sums of integers, exact.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "digits.h"
#include "lanes.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int32_t kFlip = (int32_t)0x80808080u;  // 128 added to each byte of a word

// 16 values side by side, in as many registers as it takes.
typedef float Floats16 __attribute__((vector_size(64)));
typedef int32_t Ints16 __attribute__((vector_size(64)));

// The two halves of digit() of numerics/digits.h, for each; by reference, since not every CPU passes such vectors in
// registers.
template <class Ints, class Floats>
static inline __attribute__((always_inline)) void nearest(Ints& out, const Floats& y) {
  out = (Ints)(y + kRounder) - 0x4b400000;
}
template <class Ints>
static inline __attribute__((always_inline)) void hold(Ints& n) {
  n = n < -127 ? Ints{} - 127 : n;
  n = n > 127 ? Ints{} + 127 : n;
}

// Both digits, the last of them yet to be held; low stays as it is where there is one.
template <int kDigits, class Ints, class Floats>
static inline __attribute__((always_inline)) void digits_of(Ints& high, Ints& low, const Floats& y) {
  nearest(high, y);
  if (kDigits == 1) return;
  hold(high);
  nearest(low, (y - __builtin_convertvector(high, Floats)) * 256.0f);
}

#if defined(__AVX512F__)
// Four registers of integers as bytes held in [-127, 127]: of each 16 bytes of the result four are of each register.
static inline __m512i held_bytes(const Ints16 (&n)[4]) {
  const __m512i a = _mm512_packs_epi32((__m512i)n[0], (__m512i)n[1]);
  const __m512i b = _mm512_packs_epi32((__m512i)n[2], (__m512i)n[3]);
  return _mm512_max_epi8(_mm512_packs_epi16(a, b), _mm512_set1_epi8(-127));  // packing saturates
}

// sum[j] += the four bytes of word j.
static inline void add_bytes(Ints16& sum, __m512i bytes) {
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), bytes);
  sum += (Ints16)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
#endif

// Four registers of digits as bytes, one register after the other; sum += them, in any lane.
template <bool kSum>
static inline __attribute__((always_inline)) void store_row(int8_t* out, LaneInts (&n)[4], LaneInts& sum) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = held_bytes(n);
  _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, bytes));
  if (kSum) add_bytes(sum, bytes);
#else
  for (int i = 0; i < 4; i++, out += kLanes) {
    hold(n[i]);
    if (kSum) sum += n[i];
#if defined(__AVX2__) && defined(__FMA__)
    const __m256i all = (__m256i)n[i];
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    _mm_storel_epi64((__m128i*)out, _mm_packs_epi16(words, words));
#elif defined(__SSE2__)
    const __m128i words = _mm_packs_epi32((__m128i)n[i], (__m128i)n[i]);
    const int four = _mm_cvtsi128_si32(_mm_packs_epi16(words, words));
    memcpy(out, &four, sizeof(four));
#elif defined(__aarch64__)
    const int16x4_t words = vmovn_s32((int32x4_t)n[i]);
    vst1_lane_s32((int32_t*)out, vreinterpret_s32_s8(vmovn_s16(vcombine_s16(words, words))), 0);
#else
    for (int j = 0; j < kLanes; j++) out[j] = (int8_t)n[i][j];
#endif
  }
#endif
}

// words[16], the bytes of word j digits n[0][j] .. n[3][j]; sum[j] += them.
template <bool kSum>
static inline __attribute__((always_inline)) void store_words(uint8_t* out, Ints16 (&n)[4], Ints16& sum, int32_t flip) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  const __m512i bytes = _mm512_shuffle_epi8(held_bytes(n), order);
  _mm512_storeu_si512(out, _mm512_xor_si512(bytes, _mm512_set1_epi32(flip)));
  if (kSum) add_bytes(sum, bytes);
#else
  Ints16 words = {};
  for (int i = 0; i < 4; i++) {
    hold(n[i]);
    if (kSum) sum += n[i];
    words |= (n[i] & 255) << (8 * i);
  }
  words ^= flip;
  memcpy(out, &words, sizeof(words));
#endif
}

// words[step][16] from digits[16][128], four of a row side by side.
static inline void interleave(uint8_t* out, const int8_t (*digits)[kDigitBlock], int steps, int32_t flip) {
#if defined(__AVX512F__)
  for (int step = 0; step < steps; step += kPanel) {  // 16 x 16 words at a time
    __m512i row[kPanel], pair[kPanel];
#pragma GCC unroll 16
    for (int i = 0; i < kPanel; i++) row[i] = _mm512_load_si512(digits[i] + 4 * step);
#pragma GCC unroll 8
    for (int i = 0; i < kPanel; i += 2) {
      pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
      pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPanel; i += 4) {
      row[i] = _mm512_unpacklo_epi64(pair[i], pair[i + 2]);
      row[i + 1] = _mm512_unpackhi_epi64(pair[i], pair[i + 2]);
      row[i + 2] = _mm512_unpacklo_epi64(pair[i + 1], pair[i + 3]);
      row[i + 3] = _mm512_unpackhi_epi64(pair[i + 1], pair[i + 3]);
    }
    const __m512i flips = _mm512_set1_epi32(flip);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      const __m512i p = _mm512_shuffle_i32x4(row[c], row[4 + c], 0x88);
      const __m512i q = _mm512_shuffle_i32x4(row[c], row[4 + c], 0xdd);
      const __m512i r = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0x88);
      const __m512i s = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0xdd);
      const __m512i column[4] = {_mm512_shuffle_i32x4(p, r, 0x88), _mm512_shuffle_i32x4(q, s, 0x88),
                                 _mm512_shuffle_i32x4(p, r, 0xdd), _mm512_shuffle_i32x4(q, s, 0xdd)};
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const int at = step + c + 4 * i;
        if (at < steps) _mm512_storeu_si512(out + at * 4 * kPanel, _mm512_xor_si512(flips, column[i]));
      }
    }
  }
#else
  for (int step = 0; step < steps; step++) {
    for (int r = 0; r < kPanel; r++) {
      uint32_t word;
      memcpy(&word, digits[r] + 4 * step, 4);
      word ^= flip;
      memcpy(out + (step * kPanel + r) * 4, &word, 4);
    }
  }
#endif
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
