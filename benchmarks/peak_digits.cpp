// The rate of dot products of four 8-bit integers: independent sums held in registers, nothing read from memory. They
// start at different values: equal ones would be merged. Built by digits.py for this machine; called through ctypes.
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>

#if defined(__AVX512VNNI__)
typedef __m512i Vec;
#define DOT(sum, a, b) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))
#elif defined(__AVXVNNI__)
typedef __m256i Vec;
#define DOT(sum, a, b) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#else
typedef __m256i Vec;  // AVX2: three instructions
#define DOT(sum, a, b) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#endif
constexpr int kSums = sizeof(Vec) == 64 ? 20 : 10;

// Runs `rounds` rounds on every thread; returns the operations done, a multiplication and an addition each two.
extern "C" double dot_rounds(int64_t rounds, int threads, int32_t* sink) {
#pragma omp parallel num_threads(threads)
  {
    Vec sum[kSums], a, b;
    for (unsigned i = 0; i < sizeof(Vec) / 4; i++) ((int32_t*)&a)[i] = 0x01020304, ((int32_t*)&b)[i] = 0x04030201;
    for (int i = 0; i < kSums; i++) {
      for (unsigned j = 0; j < sizeof(Vec) / 4; j++) ((int32_t*)&sum[i])[j] = i;
    }
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 20
      for (int i = 0; i < kSums; i++) DOT(sum[i], a, b);
    }
    int32_t total = 0;
    for (int i = 0; i < kSums; i++) total += ((int32_t*)&sum[i])[0];
    sink[omp_get_thread_num()] = total;
  }
  return 2.0 * rounds * threads * kSums * sizeof(Vec);
}
