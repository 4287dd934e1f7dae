// The CUDA launchers as a table of CPU kernels: linked in place of cpu/dispatch.cpp, it makes every op of the library
// run through the CUDA sources.
#include <omp.h>

#include "../../cuda_ops/cpu/dispatch.h"
#include "../../cuda_ops/cpu/threads.h"
#include "../../cuda_ops/kernels/kernels.h"

namespace samebits {
// Weak, so that a library of some .cu files alone can be linked (build_shim(only=...)).
namespace device {
#define KERNEL(name, arguments) __attribute__((weak)) void name(Stream cuda_stream, SAMEBITS_UNPACK arguments);
#include "../../cuda_ops/kernels.inc"
#undef KERNEL
}  // namespace device

namespace {

template <class Launcher, Launcher kLauncher>
struct OnCpu;
template <class... Arguments, void (*kLauncher)(Stream, Arguments...)>
struct OnCpu<void (*)(Stream, Arguments...), kLauncher> {
  static void run(Arguments... arguments) { kLauncher(nullptr, arguments...); }
};

const Kernels kTable = {
#define KERNEL(name, arguments) OnCpu<void (*)(Stream, SAMEBITS_UNPACK arguments), &device::name>::run,
#include "../../cuda_ops/kernels.inc"
#undef KERNEL
};

int threads = 0;

}  // namespace

const Kernels* kernels() { return &kTable; }
const char* isa() { return "cuda_on_cpu"; }
void set_threads(int count) { threads = count; }
int thread_count() { return threads > 0 ? threads : omp_get_max_threads(); }
int grain() { return 1; }

}  // namespace samebits
