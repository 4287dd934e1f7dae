// Thread i of the grid, blocks of 256, looks at indices[i] and its neighbour before it. Any n.
//
// order: no sum.
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "pack.h"

namespace samebits {
namespace device {

constexpr int kCheckThreads = 256;

struct Name {
  char text[24];
};

// ---------------------------------------------------------------- kernels

__global__ void __launch_bounds__(kCheckThreads)
    check_indices_kernel(const int32_t* indices, int64_t n, int64_t limit, bool ascending, Name name) {
  const int64_t i = (int64_t)blockIdx.x * kCheckThreads + threadIdx.x;
  if (i >= n) return;
  const int value = indices[i];
  if (ascending && value == -1) return;
  if (value < 0 || value >= limit) {
    printf("error: %s: element %lld is %d, allowed is 0 to %lld\n", name.text, (long long)i, value,
           (long long)limit - 1);
    __trap();
  }
  if (ascending && i > 0 && (indices[i - 1] >= value || indices[i - 1] == -1)) {
    printf("error: %s: expected ascending and distinct, got %d then %d at %lld\n", name.text, indices[i - 1], value,
           (long long)i);
    __trap();
  }
}

// ---------------------------------------------------------------- launchers

void check_indices(Stream stream, const int32_t* indices, int64_t n, int64_t limit, bool ascending, const char* name) {
  if (n <= 0) return;
  Name copy = {};
  strncpy(copy.text, name, sizeof copy.text - 1);
  SAMEBITS_LAUNCH(check_indices_kernel, dim3(blocks_for(n, kCheckThreads)), dim3(kCheckThreads), 0, stream, indices, n,
                  limit, ascending, copy);
}

}  // namespace device
}  // namespace samebits
