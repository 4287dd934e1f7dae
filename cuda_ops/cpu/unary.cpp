// One elementary function over n values: how tests reach the arithmetic of a backend.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/unary.h"

namespace samebits {
namespace SAMEBITS_ISA {

void unary(float* out, const float* inp, int64_t n, int function) {
  parallel_for(n, 8, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) out[i] = unary_function(function, inp[i]);
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
