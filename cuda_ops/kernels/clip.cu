// Loss, gradient norm and the factor that clips the gradient, from the two sums of a step. One thread.
//
// order: no sum; clip_scale() of numerics/optimizer.h.
#include "../numerics/optimizer.h"
#include "launch.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

__global__ void clip_kernel(float* report, float* scalars, const float* totals, float loss_scale, float clip_norm) {
  clip_scale(report, scalars, totals[0], totals[1], loss_scale, clip_norm);
}

// ---------------------------------------------------------------- launchers

void clip(Stream stream, float* report, float* scalars, const float* totals, float loss_scale, float clip_norm) {
  SAMEBITS_LAUNCH(clip_kernel, dim3(1), dim3(1), 0, stream, report, scalars, totals, loss_scale, clip_norm);
}

}  // namespace device
}  // namespace samebits
