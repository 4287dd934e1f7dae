// The order of every sum that is not a plain chain.
//
// row reduction     32 strided partials p[i mod 32], each a chain in index order from +0, then the tree
//                   p[j] += p[j + 16], + 8, + 4, + 2, + 1. On a GPU a warp does this; on a CPU two vectors.
// column reduction  the same over the tokens of one sequence (t mod 32), and the value of a sequence is
//                   then added to the accumulator, sequences in order.
// pairwise tree     (0,1)(2,3)... level by level over a list; an odd last element moves up unchanged.
#pragma once

#include "float.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kPartials = 32;

// Folds p[0..31] in place; the sum is p[0].
SAMEBITS_HD float fold_partials(float* p) {
  for (int width = kPartials / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; j++) p[j] = add(p[j], p[j + width]);
  }
  return p[0];
}

// The same fold for `columns` columns at once: p[32][columns], sums in p[0][columns].
SAMEBITS_HD void fold_partial_rows(float* p, int columns) {
  for (int width = kPartials / 2; width > 0; width /= 2) {
    for (int i = 0; i < width * columns; i++) p[i] = add(p[i], p[i + width * columns]);
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
