// Cosine and sine of a turn, for normal numbers.
#pragma once

#include "float.h"

namespace samebits {
namespace SAMEBITS_ISA {

// cos(2 pi u) and sin(2 pi u) for u in [0, 1): the nearest quarter turn is taken off exactly, the rest is
// a polynomial on [-pi/4, pi/4].
SAMEBITS_HD void cos_sin_turn(float u, float* cosine, float* sine) {
  const int32_t quarter = (int32_t)add(mul(u, 4.0f), 0.5f);
  const float t = mul(fma_((float)quarter, -0.25f, u), 0x1.921fb6p+2f);
  const float z = mul(t, t);
  float s = -0x1.9943f2p-13f;
  s = fma_(s, z, 0x1.11073cp-7f);
  s = fma_(s, z, -0x1.555546p-3f);
  s = fma_(mul(s, z), t, t);
  float c = 0x1.99eb9cp-16f;
  c = fma_(c, z, -0x1.6c0c34p-10f);
  c = fma_(c, z, 0x1.55554ap-5f);
  c = fma_(mul(c, z), z, fma_(z, -0.5f, 1.0f));
  const bool swap = quarter & 1;
  const float x = swap ? s : c;
  const float y = swap ? c : s;
  *cosine = ((quarter + 1) & 2) ? -x : x;
  *sine = (quarter & 2) ? -y : y;
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
