// The scalars of a step from its two sums: loss, gradient norm and the factor that clips the gradient.
#pragma once

#include "float.h"

namespace samebits {
namespace SAMEBITS_ISA {

// loss_and_norm[2] = loss_sum loss_scale, sqrt(square_sum). factor = what the gradient is scaled by: 1 if norm <=
// clip_norm, else clip_norm / norm (Pascanu, Mikolov and Bengio 2013, algorithm 1); NaN if loss or norm is not finite.
SAMEBITS_HD void scalars_of_step(float* loss_and_norm, float* factor, float loss_sum, float square_sum,
                                 float loss_scale, float clip_norm) {
  const float loss = mul(loss_sum, loss_scale);
  const float norm = sqrt_(square_sum);
  const bool finite = (to_bits(loss) & 0x7f800000u) != 0x7f800000u && (to_bits(norm) & 0x7f800000u) != 0x7f800000u;
  loss_and_norm[0] = loss;
  loss_and_norm[1] = norm;
  *factor = !finite ? from_bits(0x7fc00000u) : norm <= clip_norm ? 1.0f : div(clip_norm, norm);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
