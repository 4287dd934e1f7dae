// Drawing a token from softmax(logits / temperature), one row per sequence.
//
// order: candidates stand by (value descending, index ascending); weights exp(x - max) are summed as one chain in
// that order, and the first whose running sum exceeds u * total is drawn. Threads share out rows.
#include <stdlib.h>

#include "kernels.h"
#include "parallel.h"

#include "../numerics/exp_log.h"

namespace samebits {
namespace SAMEBITS_ISA {

struct Candidate {
  float value;
  int32_t index;
};

static int by_value_then_index(const void* a, const void* b) {
  const Candidate *x = (const Candidate*)a, *y = (const Candidate*)b;
  if (x->value != y->value) return x->value > y->value ? -1 : 1;
  return (x->index > y->index) - (x->index < y->index);
}

static int32_t sample_row(Candidate* candidates, const float* logits, float uniform, int64_t V, float temperature,
                          int64_t top_k) {
  for (int64_t i = 0; i < V; i++) {
    candidates[i].value = temperature > 0.0f ? div(logits[i], temperature) : logits[i];
    candidates[i].index = (int32_t)i;
  }
  qsort(candidates, (size_t)V, sizeof(Candidate), by_value_then_index);
  if (!(temperature > 0.0f)) return candidates[0].index;
  const int64_t count = top_k > 0 && top_k < V ? top_k : V;
  const float largest = candidates[0].value;
  float total = 0.0f;
  for (int64_t i = 0; i < count; i++) total = add(total, exp_(sub(candidates[i].value, largest)));
  const float threshold = mul(uniform, total);
  float running = 0.0f;
  for (int64_t i = 0; i < count; i++) {
    running = add(running, exp_(sub(candidates[i].value, largest)));
    if (running > threshold) return candidates[i].index;
  }
  return candidates[count - 1].index;
}

void sample(int32_t* tokens, const float* logits, const float* uniforms, int64_t N, int64_t V, int64_t Vp,
            float temperature, int64_t top_k) {
  parallel_for(N, 8 * V, [=](int64_t begin, int64_t end) {
    Candidate* candidates = (Candidate*)malloc((size_t)V * sizeof(Candidate));
    if (!candidates) abort();
    for (int64_t n = begin; n < end; n++) {
      tokens[n] = sample_row(candidates, logits + n * Vp, uniforms[n], V, temperature, top_k);
    }
    free(candidates);
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
