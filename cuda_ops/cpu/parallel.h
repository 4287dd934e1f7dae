// Sharing out the outputs of a kernel among threads: the only place that knows OpenMP. A sum never crosses threads.
#pragma once

#include <omp.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "../numerics/float.h"
#include "threads.h"

namespace samebits {
namespace SAMEBITS_ISA {

// Round to nearest even with subnormals, whatever a foreign library has set in this thread; restored at the end.
struct FloatEnvironment {
#if defined(__x86_64__)
  unsigned saved;
  FloatEnvironment() : saved(_mm_getcsr()) {
    if ((saved & ~0x3fu) != 0x1f80u) _mm_setcsr(0x1f80u);
  }
  ~FloatEnvironment() {
    if ((saved & ~0x3fu) != 0x1f80u) _mm_setcsr(saved);
  }
#elif defined(__aarch64__)
  uint64_t saved;
  FloatEnvironment() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
  }
  ~FloatEnvironment() { __asm__ volatile("msr fpcr, %0" : : "r"(saved)); }
#else
  FloatEnvironment() {}
#endif
};

// Work is counted in additions of cached elements, a sixth of a nanosecond each with AVX-512.
constexpr int64_t kProducts = 12;  // multiply-adds of a matrix product that take as long as one

// f(begin, end) on one contiguous range per thread; cost: the work of one of the n, at least 1.
template <class F>
static inline void parallel_for(int64_t n, int64_t cost, F f) {
  if (n <= 0) return;
  const int64_t worth = cost >= grain() ? n : n * cost / grain(), threads = thread_count();
  const int64_t most = worth < n ? worth : n, wanted = threads < most ? threads : most;
  if (wanted <= 1) {
    FloatEnvironment environment;
    f((int64_t)0, n);
    return;
  }
#pragma omp parallel num_threads((int)wanted)
  {
    FloatEnvironment environment;
    const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
    const int64_t begin = n * thread / count, end = n * (thread + 1) / count;
    if (begin < end) f(begin, end);
  }
}

// Each of the n is worth a thread.
template <class F>
static inline void parallel_for(int64_t n, F f) {
  parallel_for(n, INT32_MAX, f);
}

// f(i) for each i, handed out one at a time: for work of uneven size.
template <class F>
static inline void parallel_blocks(int64_t n, F f) {
  if (n <= 0) return;
  const int64_t wanted = thread_count() < n ? thread_count() : n;
#pragma omp parallel num_threads((int)wanted) if (wanted > 1)
  {
    FloatEnvironment environment;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < n; i++) f(i);
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
