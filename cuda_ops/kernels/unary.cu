// One elementary function over n values: how tests reach the arithmetic of a backend. Indices: elementwise.h.
//
// order: no sum; unary_function() of numerics/unary.h.
#include "../numerics/unary.h"
#include "elementwise.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

template <int kFunction>
struct Unary {
  static constexpr int kInputs = 1;
  __device__ float operator()(float inp, float) const { return unary_function(kFunction, inp); }
};

// ---------------------------------------------------------------- launchers

void unary(Stream stream, float* out, const float* inp, int64_t n, int function) {
  switch (function) {
    case kExp:
      return elementwise(stream, out, inp, nullptr, n, Unary<kExp>());
    case kLog:
      return elementwise(stream, out, inp, nullptr, n, Unary<kLog>());
    case kSqrt:
      return elementwise(stream, out, inp, nullptr, n, Unary<kSqrt>());
    case kGelu:
      return elementwise(stream, out, inp, nullptr, n, Unary<kGelu>());
    case kGeluDerivative:
      return elementwise(stream, out, inp, nullptr, n, Unary<kGeluDerivative>());
    case kCosTurn:
      return elementwise(stream, out, inp, nullptr, n, Unary<kCosTurn>());
    default:
      return elementwise(stream, out, inp, nullptr, n, Unary<kSinTurn>());
  }
}

}  // namespace device
}  // namespace samebits
