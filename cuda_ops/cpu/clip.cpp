// Loss, gradient norm and the factor that clips the gradient, from the two sums of a step. Scalars: no sum.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/optimizer.h"

namespace samebits {
namespace SAMEBITS_ISA {

void clip(float* report, float* scalars, const float* totals, float loss_scale, float clip_norm) {
  FloatEnvironment environment;
  clip_scale(report, scalars, totals[0], totals[1], loss_scale, clip_norm);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
