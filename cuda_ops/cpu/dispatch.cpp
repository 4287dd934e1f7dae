#include "dispatch.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "dot.h"
#include "threads.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#define KERNEL(name, arguments) void name arguments;
#if defined(__x86_64__)
namespace samebits::v3 {
#include "../kernels.inc"
}
namespace samebits::v4 {
#include "../kernels.inc"
}
#endif
#undef KERNEL

namespace samebits {
namespace {

const Kernels kBaseline = {
#define KERNEL(name, arguments) baseline::name,
#include "../kernels.inc"
#undef KERNEL
};

#if defined(__x86_64__)
const Kernels kV3 = {
#define KERNEL(name, arguments) v3::name,
#include "../kernels.inc"
#undef KERNEL
};
const Kernels kV4 = {
#define KERNEL(name, arguments) v4::name,
#include "../kernels.inc"
#undef KERNEL
};
bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
}
#endif

struct Choice {
  const char* name;
  const Kernels* table;
};

Choice choose() {
  const char* wanted = getenv("SAMEBITS_ISA");
  if (wanted && !*wanted) wanted = nullptr;
#if defined(__x86_64__)
  if (has_v4() && (!wanted || !strcmp(wanted, "v4"))) return {"v4", &kV4};
  if (has_v3() && (!wanted || !strcmp(wanted, "v3"))) return {"v3", &kV3};
#endif
  if (!wanted || !strcmp(wanted, "baseline")) return {"baseline", &kBaseline};
  return {wanted, nullptr};
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

// The dot product instruction of the chosen level: AVX-512 VNNI with v4, AVX-VNNI with v3, Armv8.2's sdot.
bool find_dot_product() {
  const char* wanted = getenv("SAMEBITS_DOT");
  if (wanted && !strcmp(wanted, "plain")) return false;
#if defined(__x86_64__)
  if (!strcmp(choice().name, "v4")) return __builtin_cpu_supports("avx512vnni");
  unsigned a = 7, b = 0, c = 1, d = 0;
  if (strcmp(choice().name, "v3")) return false;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return a >> 4 & 1;
#elif defined(__aarch64__)
  return getauxval(AT_HWCAP) >> 20 & 1;
#else
  return false;
#endif
}

// Ten microseconds, in additions of cached elements. Waking a thread takes two of them on a quiet machine, and ten
// thousand where others use its core.
int find_grain() {
  const char* wanted = getenv("SAMEBITS_GRAIN");
  const int given = wanted ? atoi(wanted) : 0;
  return given > 0 ? given : 1 << 16;
}

int threads = 0;

}  // namespace

const Kernels* kernels() { return choice().table; }
bool has_dot_product() {
  static const bool found = find_dot_product();
  return found;
}
const char* isa() { return choice().name; }
void set_threads(int count) { threads = count; }
int grain() {
  static const int found = find_grain();
  return found;
}
int thread_count() { return threads > 0 ? threads : omp_get_max_threads(); }

}  // namespace samebits
