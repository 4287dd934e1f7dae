// Sums over a few numbers, by one thread: the losses of a lane, then those of all lanes and the chunks of the norm.
//
// order: chain_sum is one chain, tree_sum a pairwise tree (numerics/order.h).
#include "kernels.h"
#include "parallel.h"

#include "../numerics/float.h"

namespace samebits {
namespace SAMEBITS_ISA {

void chain_sum(float* total, const float* losses, int64_t n) {
  FloatEnvironment environment;
  float sum = *total;
  for (int64_t i = 0; i < n; i++) sum = add(sum, losses[i]);
  *total = sum;
}

// The tree over x[0..n): its left part is the largest power of two below n, which is what level-by-level
// pairing with an odd last element moving up amounts to.
static float tree(const float* x, int64_t n) {
  if (n == 1) return x[0];
  int64_t left = 1;
  while (2 * left < n) left *= 2;
  return add(tree(x, left), tree(x + left, n - left));
}

void tree_sum(float* out, const float* x, int64_t n) {
  FloatEnvironment environment;
  *out = n > 0 ? tree(x, n) : 0.0f;
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
