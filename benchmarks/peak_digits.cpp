// The rate of dot products of four 8-bit integers: independent sums held in registers, nothing read from memory. They
// start at different values: equal ones would be merged. Built by digits.py for this machine; called through ctypes.
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>

#if defined(__AVX512VNNI__)
typedef __m512i Vec;
static Vec all(int x) { return _mm512_set1_epi32(x); }
#define DOT(sum, a, b) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))
#elif defined(__AVXVNNI__)
typedef __m256i Vec;
static Vec all(int x) { return _mm256_set1_epi32(x); }
#define DOT(sum, a, b) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#else
typedef __m256i Vec;  // AVX2: three instructions
static Vec all(int x) { return _mm256_set1_epi32(x); }
#define DOT(sum, a, b) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#endif
constexpr int kSums = sizeof(Vec) == 64 ? 20 : 10;

// Runs `rounds` rounds on every thread; returns the operations done, a multiplication and an addition each two.
extern "C" double dot_rounds(int64_t rounds, int threads, int32_t* sink) {
#pragma omp parallel num_threads(threads)
  {
    const Vec a = all(0x01020304), b = all(0x04030201);
    Vec sum[kSums];
#pragma GCC unroll 20
    for (int i = 0; i < kSums; i++) sum[i] = all(i);
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 20
      for (int i = 0; i < kSums; i++) DOT(sum[i], a, b);
    }
    Vec total = sum[0];
#pragma GCC unroll 20
    for (int i = 1; i < kSums; i++) total ^= sum[i];
    sink[omp_get_thread_num()] = (int32_t)total[0];
  }
  return 2.0 * rounds * threads * kSums * sizeof(Vec);
}
