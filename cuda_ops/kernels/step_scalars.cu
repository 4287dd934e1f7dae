// Loss, gradient norm and the factor that clips the gradient, from the two sums of a step. One thread.
//
// order: no sum; scalars_of_step() of numerics/step_scalars.h.
#include "../numerics/step_scalars.h"
#include "launch.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

__global__ void step_scalars_kernel(float* loss_and_norm, float* factor, const float* totals, float loss_scale,
                                    float clip_norm) {
  scalars_of_step(loss_and_norm, factor, totals[0], totals[1], loss_scale, clip_norm);
}

// ---------------------------------------------------------------- launchers

void step_scalars(Stream stream, float* loss_and_norm, float* factor, const float* totals, float loss_scale,
                  float clip_norm) {
  SAMEBITS_LAUNCH(step_scalars_kernel, dim3(1), dim3(1), 0, stream, loss_and_norm, factor, totals, loss_scale,
                  clip_norm);
}

}  // namespace device
}  // namespace samebits
