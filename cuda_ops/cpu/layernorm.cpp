// LayerNorm (Ba, Kiros and Hinton 2016, equation 4), forward and backward.
//
// order: mean, variance and the two means of the backward pass are row reductions; the gradients of weight and
// bias are column reductions, sequences in order. Threads share out rows, then blocks of columns.
#include "column_sums.h"
#include "kernels.h"
#include "parallel.h"
#include "row_sums.h"

namespace samebits {
namespace SAMEBITS_ISA {

void layernorm_forward(float* out, float* mean, float* rstd, const float* inp, const float* weight, const float* bias,
                       int64_t N, int64_t C, float eps) {
  const float count = (float)C;
  parallel_for(N, 2 * C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++) {
      const float* x = inp + n * C;
      float* y = out + n * C;
      const float m = div(row_sum(C, [=](float p, int64_t i) { return add(p, x[i]); }), count);
      const float variance = div(row_sum(C,
                                         [=](float p, int64_t i) {
                                           const float d = sub(x[i], m);
                                           return fma_(d, d, p);
                                         }),
                                 count);
      const float r = div(1.0f, sqrt_(add(variance, eps)));
      for (int64_t i = 0; i < C; i++) y[i] = fma_(mul(sub(x[i], m), r), weight[i], bias[i]);
      mean[n] = m;
      rstd[n] = r;
    }
  });
}

// One row of dinp. norm = (x - mean) rstd and dnorm = dout weight are recomputed wherever they are read.
static inline void dinp_row(float* dinp, const float* dout, const float* dresidual, const float* x, const float* weight,
                            float m, float r, int64_t C) {
  const float count = (float)C;
  const float mean1 = div(row_sum(C, [=](float p, int64_t i) { return fma_(dout[i], weight[i], p); }), count);
  const float mean2 = div(
      row_sum(C, [=](float p, int64_t i) { return fma_(mul(dout[i], weight[i]), mul(sub(x[i], m), r), p); }), count);
  for (int64_t i = 0; i < C; i++) {
    const float norm = mul(sub(x[i], m), r);
    const float centred = sub(mul(dout[i], weight[i]), mean1);
    const float value = mul(fma_(-norm, mean2, centred), r);
    dinp[i] = dresidual ? add(dresidual[i], value) : value;
  }
}

template <int kWidth>
static inline void parameter_sums(float* dweight, float* dbias, const float* dout, const float* inp, const float* mean,
                                  const float* rstd, int64_t T, int64_t C, int columns) {
  const int width = kWidth ? kWidth : columns;
  ColumnPartials weights, biases;
  weights.clear(width);
  biases.clear(width);
  for (int64_t t = 0; t < T; t++) {
    const float *g = dout + t * C, *x = inp + t * C;
    float* pw = weights.p + (t % kPartials) * width;
    float* pb = biases.p + (t % kPartials) * width;
    for (int j = 0; j < width; j++) {
      pw[j] = fma_(g[j], mul(sub(x[j], mean[t]), rstd[t]), pw[j]);
      pb[j] = add(pb[j], g[j]);
    }
  }
  weights.add_to(dweight, width);
  biases.add_to(dbias, width);
}

void layernorm_backward(float* dinp, float* dweight, float* dbias, const float* dout, const float* dresidual,
                        const float* inp, const float* weight, const float* mean, const float* rstd, int64_t B,
                        int64_t T, int64_t C) {
  // Columns first: dinp may be dresidual but also, in place, dout.
  parallel_for((C + kColumnBlock - 1) / kColumnBlock, 3 * B * T * kColumnBlock, [=](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) {
      const int64_t first = block * kColumnBlock;
      const int columns = (int)(C - first < kColumnBlock ? C - first : kColumnBlock);
      for (int64_t b = 0; b < B; b++) {
        const int64_t at = b * T * C + first;
        if (columns == kColumnBlock) {
          parameter_sums<kColumnBlock>(dweight + first, dbias + first, dout + at, inp + at, mean + b * T, rstd + b * T,
                                       T, C, kColumnBlock);
        } else {
          parameter_sums<0>(dweight + first, dbias + first, dout + at, inp + at, mean + b * T, rstd + b * T, T, C,
                            columns);
        }
      }
    }
  });
  parallel_for(B * T, 4 * C, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++) {
      dinp_row(dinp + n * C, dout + n * C, dresidual ? dresidual + n * C : nullptr, inp + n * C, weight, mean[n],
               rstd[n], C);
    }
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
