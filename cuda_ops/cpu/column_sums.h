// Column reductions over the tokens of one sequence, a block of columns at a time so that the 32 partials of the
// block stay in the first-level cache.
#pragma once

#include <stdint.h>

#include "../numerics/order.h"

namespace samebits {
namespace SAMEBITS_ISA {

constexpr int kColumnBlock = 64;

// The partials of one block of columns: p[32][width]. Width 0 means `columns`, known only at run time.
struct ColumnPartials {
  alignas(64) float p[kPartials * kColumnBlock];

  void clear(int columns) {
    for (int i = 0; i < kPartials * columns; i++) p[i] = 0.0f;
  }
  // accumulator[columns] += fold of the partials
  void add_to(float* accumulator, int columns) {
    fold_partial_rows(p, columns);
    for (int j = 0; j < columns; j++) accumulator[j] = add(accumulator[j], p[j]);
  }
};

// accumulator[columns] += column sums of rows[T][stride]
template <int kWidth>
static inline void column_sum(float* accumulator, const float* rows, int64_t T, int64_t stride, int columns) {
  const int width = kWidth ? kWidth : columns;
  ColumnPartials partials;
  partials.clear(width);
  for (int64_t t = 0; t < T; t++) {
    const float* row = rows + t * stride;
    float* p = partials.p + (t % kPartials) * width;
    for (int j = 0; j < width; j++) p[j] = add(p[j], row[j]);
  }
  partials.add_to(accumulator, width);
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
