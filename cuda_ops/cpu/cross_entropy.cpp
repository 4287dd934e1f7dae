// Softmax cross-entropy, fused with its own gradient.
//
// order: exact row maximum in index order; the sum of exponentials is a row reduction over the V real columns.
// loss = log(sum) - (x[target] - max). Threads share out rows.
#include "kernels.h"
#include "parallel.h"
#include "row_sums.h"

#include "../numerics/exp_log.h"

namespace samebits {
namespace SAMEBITS_ISA {

// A maximum has no rounding, so its order matters only for which zero is kept, and x - max is then the same.
static inline float row_max(const float* x, int64_t n) {
  alignas(64) float p[kPartials];
  for (int j = 0; j < kPartials; j++) p[j] = x[0];
  int64_t i = 0;
  for (; i + kPartials <= n; i += kPartials) {
    for (int j = 0; j < kPartials; j++) p[j] = max_(p[j], x[i + j]);
  }
  for (int j = 0; i + j < n; j++) p[j] = max_(p[j], x[i + j]);
  for (int j = 1; j < kPartials; j++) p[0] = max_(p[0], p[j]);
  return p[0];
}

void cross_entropy_forward(float* losses, const float* logits, const int32_t* targets, int64_t N, int64_t V,
                           int64_t Vp) {
  parallel_for(N, 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++) {
      const float* x = logits + n * Vp;
      const float m = row_max(x, V);
      const float sum = row_sum(V, [=](float p, int64_t i) { return add(p, exp_(sub(x[i], m))); });
      losses[n] = sub(log_(sum), sub(x[targets[n]], m));
    }
  });
}

void cross_entropy_fused(float* losses, float* logits, const int32_t* targets, float dloss, int64_t N, int64_t V,
                         int64_t Vp) {
  parallel_for(N, 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++) {
      float* x = logits + n * Vp;
      const int32_t target = targets[n];
      const float m = row_max(x, V);
      const float shifted_target = sub(x[target], m);
      // The exponentials are kept where the logits stood, so that each is computed once.
      const float sum = row_sum(V, [=](float p, int64_t i) {
        const float e = exp_(sub(x[i], m));
        x[i] = e;
        return add(p, e);
      });
      losses[n] = sub(log_(sum), shifted_target);
      const float inverse = div(1.0f, sum);
      const float target_gradient = mul(sub(mul(x[target], inverse), 1.0f), dloss);
      for (int64_t i = 0; i < V; i++) x[i] = mul(mul(x[i], inverse), dloss);
      x[target] = target_gradient;
      for (int64_t i = V; i < Vp; i++) x[i] = 0.0f;
    }
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
