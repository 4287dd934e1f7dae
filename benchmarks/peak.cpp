// The fused multiply-add rate of this machine: independent chains held in registers, nothing read from memory.
// Built by limits.py for the instruction set that the ops use; called through ctypes.
#include <omp.h>
#include <stdint.h>

#if defined(__AVX512F__)
typedef float Vec __attribute__((vector_size(64)));
constexpr int kChains = 24;  // of 32 registers: enough to hide two units' latency
#elif defined(__AVX2__)
typedef float Vec __attribute__((vector_size(32)));
constexpr int kChains = 12;  // of 16 registers
#else
typedef float Vec __attribute__((vector_size(16)));
constexpr int kChains = 12;
#endif

// Runs `rounds` rounds on every thread; returns the floating-point operations done.
extern "C" double fma_rounds(int64_t rounds, int threads, float* sink) {
#pragma omp parallel num_threads(threads)
  {
    Vec sum[kChains];
    Vec factor = {}, term = {};
    factor += 0.999f;
    term += 0.001f;
    for (int i = 0; i < kChains; i++) sum[i] = term * (float)i;
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 24
      for (int i = 0; i < kChains; i++) sum[i] = sum[i] * factor + term;  // one instruction: -ffp-contract=fast
      __asm__ volatile("" : "+x"(factor), "+x"(term));
    }
    Vec total = {};
    for (int i = 0; i < kChains; i++) total += sum[i];
    sink[omp_get_thread_num()] = total[0];
  }
  return 2.0 * rounds * threads * kChains * (sizeof(Vec) / sizeof(float));
}
