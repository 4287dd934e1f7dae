// Loss, gradient norm and the factor that clips the gradient, from the two sums of a step: no sum.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/step_scalars.h"

namespace samebits {
namespace SAMEBITS_ISA {

void step_scalars(float* loss_and_norm, float* factor, const float* totals, float loss_scale, float clip_norm) {
  FloatEnvironment environment;
  scalars_of_step(loss_and_norm, factor, totals[0], totals[1], loss_scale, clip_norm);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
