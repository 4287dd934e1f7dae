// LayerNorm (Ba, Kiros and Hinton 2016, equation 4), forward and backward.
//
// Rows (forward, dinp): rows.h. A row of middle length lies in the registers of a warp, read once and all of it in
// flight at a time; another is read again for every pass, from the near cache if it is short. Columns (dweight, dbias):
// columns.h. Where rows are not held, 128-bit accesses where C % 4 == 0 and all arrays are 16-byte aligned; any N, T,
// C.
//
// order: mean, variance and the two means of the backward pass are row reductions (fold_partials); dweight and dbias
// are column reductions, sequences in order.
#include "columns.h"
#include "rows.h"

namespace samebits {
namespace device {

// ---------------------------------------------------------------- kernels

template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    layernorm_forward_kernel(float* out, float* mean, float* rstd, const float* inp, const float* weight,
                             const float* bias, int64_t N, int C, float eps) {
  const OwnRow<kWidth> own;
  const bool real = own.row < N;
  const int n = real ? C : 0;  // lanes beyond the last row only take part in shuffles
  const float* x = inp + own.row * C;
  const float count = (float)C;

  Pack<kWidth> p = no_partials<kWidth>();
#pragma unroll 8
  for (int i = own.first; i < n; i += kPartials) {
    const Pack<kWidth> v = load<kWidth>(x + i);
#pragma unroll
    for (int e = 0; e < kWidth; e++) p.x[e] = add(p.x[e], v.x[e]);
  }
  const float m = div(fold_lanes<kWidth>(p), count);

  p = no_partials<kWidth>();
#pragma unroll 4
  for (int i = own.first; i < n; i += kPartials) {
    const Pack<kWidth> v = load<kWidth>(x + i);
#pragma unroll
    for (int e = 0; e < kWidth; e++) {
      const float d = sub(v.x[e], m);
      p.x[e] = fma_(d, d, p.x[e]);
    }
  }
  const float variance = div(fold_lanes<kWidth>(p), count);
  const float r = div(1.0f, sqrt_(add(variance, eps)));

  float* y = out + own.row * C;
#pragma unroll 4
  for (int i = own.first; i < n; i += kPartials) {
    Pack<kWidth> v = load<kWidth>(x + i);
    const Pack<kWidth> w = load<kWidth>(weight + i), b = load<kWidth>(bias + i);
#pragma unroll
    for (int e = 0; e < kWidth; e++) v.x[e] = fma_(mul(sub(v.x[e], m), r), w.x[e], b.x[e]);
    store<kWidth>(y + i, v);
  }
  if (real && own.first == 0) {
    mean[own.row] = m;
    rstd[own.row] = r;
  }
}

// A row in the registers of a warp, kHeld elements to a lane: C <= 32 kHeld.
template <int kHeld>
__global__ void __launch_bounds__(kRowThreads, kHeld <= 32 ? 8 : 4)  // rows in flight are what it lives on
    layernorm_forward_held_kernel(float* out, float* mean, float* rstd, const float* inp, const float* weight,
                                  const float* bias, int64_t N, int C, float eps) {
  const OwnRow<1> own;
  if (own.row >= N) return;  // the whole warp
  const int own_count = (C - own.first + kPartials - 1) / kPartials;
  const float* x = inp + own.row * C + own.first;
  const float count = (float)C;
  float held[kHeld];
#pragma unroll
  for (int k = 0; k < kHeld; k++) held[k] = k < own_count ? x[k * kPartials] : 0.0f;

  Pack<1> p = no_partials<1>();
#pragma unroll
  for (int k = 0; k < kHeld; k++) {
    if (k < own_count) p.x[0] = add(p.x[0], held[k]);
  }
  const float m = div(fold_lanes<1>(p), count);

  p = no_partials<1>();
#pragma unroll
  for (int k = 0; k < kHeld; k++) {
    held[k] = sub(held[k], m);
    if (k < own_count) p.x[0] = fma_(held[k], held[k], p.x[0]);
  }
  const float variance = div(fold_lanes<1>(p), count);
  const float r = div(1.0f, sqrt_(add(variance, eps)));

  float* y = out + own.row * C + own.first;
  weight += own.first;
  bias += own.first;
#pragma unroll
  for (int k = 0; k < kHeld; k++) {
    if (k < own_count) y[k * kPartials] = fma_(mul(held[k], r), weight[k * kPartials], bias[k * kPartials]);
  }
  if (own.first == 0) {
    mean[own.row] = m;
    rstd[own.row] = r;
  }
}

constexpr int kAhead = 4;

// dinp may be dresidual or dout: each element is read before it is written, by the same lane.
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    layernorm_dinp_kernel(float* dinp, const float* dout, const float* dresidual, const float* inp, const float* weight,
                          const float* mean, const float* rstd, int64_t N, int C) {
  const OwnRow<kWidth> own;
  const bool real = own.row < N;
  const int n = real ? C : 0;
  const float *x = inp + own.row * C, *g = dout + own.row * C;
  const float m = real ? mean[own.row] : 0.0f, r = real ? rstd[own.row] : 0.0f;
  const float count = (float)C;

  Pack<kWidth> p = no_partials<kWidth>(), q = no_partials<kWidth>();
#pragma unroll 4
  for (int i = own.first; i < n; i += kPartials) {
    const Pack<kWidth> d = load<kWidth>(g + i), v = load<kWidth>(x + i), w = load<kWidth>(weight + i);
#pragma unroll
    for (int e = 0; e < kWidth; e++) {
      p.x[e] = fma_(d.x[e], w.x[e], p.x[e]);
      q.x[e] = fma_(mul(d.x[e], w.x[e]), mul(sub(v.x[e], m), r), q.x[e]);
    }
  }
  const float mean1 = div(fold_lanes<kWidth>(p), count);
  const float mean2 = div(fold_lanes<kWidth>(q), count);

  float* y = dinp + own.row * C;
  const float* residual = dresidual ? dresidual + own.row * C : nullptr;
#pragma unroll 1
  for (int i = own.first; i < n; i += kAhead * kPartials) {
    // All loads of kAhead steps before the first store, which for all the compiler knows may change them.
    Pack<kWidth> d[kAhead], v[kAhead], before[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; k++) {
      const int at = i + k * kPartials;
      if (at >= n) continue;
      d[k] = load<kWidth>(g + at);
      v[k] = load<kWidth>(x + at);
      if (residual) before[k] = load<kWidth>(residual + at);
    }
#pragma unroll
    for (int k = 0; k < kAhead; k++) {
      const int at = i + k * kPartials;
      if (at >= n) continue;
      const Pack<kWidth> w = load<kWidth>(weight + at);
#pragma unroll
      for (int e = 0; e < kWidth; e++) {
        const float norm = mul(sub(v[k].x[e], m), r);
        const float own_value = mul(fma_(-norm, mean2, sub(mul(d[k].x[e], w.x[e]), mean1)), r);
        d[k].x[e] = residual ? add(before[k].x[e], own_value) : own_value;
      }
      store<kWidth>(y + at, d[k]);
    }
  }
}

// What one token adds to the partials of dweight and dbias.
struct LayernormTerms {
  static constexpr int kSums = 2;
  const float *dout, *inp, *mean, *rstd;

  template <int kWidth>
  __device__ __forceinline__ void operator()(Pack<kWidth>* p, int64_t token, int64_t at) const {
    const Pack<kWidth> g = load<kWidth>(dout + at), x = load<kWidth>(inp + at);
    const float m = mean[token], r = rstd[token];
#pragma unroll
    for (int e = 0; e < kWidth; e++) {
      p[0].x[e] = fma_(g.x[e], mul(sub(x.x[e], m), r), p[0].x[e]);
      p[1].x[e] = add(p[1].x[e], g.x[e]);
    }
  }
};

// ---------------------------------------------------------------- launchers

constexpr int kShort = 256, kMiddle = 1024, kLong = 2048;  // channels: rows beyond kShort and up to kLong are held

void layernorm_forward(Stream stream, float* out, float* mean, float* rstd, const float* inp, const float* weight,
                       const float* bias, int64_t N, int64_t C, float eps) {
  if (N <= 0) return;
  if (C > kShort && C <= kLong) {
    const auto held = C <= kMiddle ? layernorm_forward_held_kernel<kMiddle / kPartials>
                                   : layernorm_forward_held_kernel<kLong / kPartials>;
    SAMEBITS_LAUNCH(held, grid_for_rows<1>(N), dim3(kRowThreads), 0, stream, out, mean, rstd, inp, weight, bias, N,
                    (int)C, eps);
  } else if (C % 4 == 0 && aligned(out, inp, weight, bias)) {
    SAMEBITS_LAUNCH(layernorm_forward_kernel<4>, grid_for_rows<4>(N), dim3(kRowThreads), 0, stream, out, mean, rstd,
                    inp, weight, bias, N, (int)C, eps);
  } else {
    SAMEBITS_LAUNCH(layernorm_forward_kernel<1>, grid_for_rows<1>(N), dim3(kRowThreads), 0, stream, out, mean, rstd,
                    inp, weight, bias, N, (int)C, eps);
  }
}

void layernorm_backward(Stream stream, float* dinp, float* dweight, float* dbias, const float* dout,
                        const float* dresidual, const float* inp, const float* weight, const float* mean,
                        const float* rstd, int64_t B, int64_t T, int64_t C) {
  // Columns first: dinp may be dout.
  float* const sums[2] = {dweight, dbias};
  column_sums(stream, sums, LayernormTerms{dout, inp, mean, rstd}, B, T, C, aligned(dout, inp));
  const int64_t N = B * T;
  if (N <= 0) return;
  if (C % 4 == 0 && aligned(dinp, dout, dresidual, inp, weight)) {
    SAMEBITS_LAUNCH(layernorm_dinp_kernel<4>, grid_for_rows<4>(N), dim3(kRowThreads), 0, stream, dinp, dout, dresidual,
                    inp, weight, mean, rstd, N, (int)C);
  } else {
    SAMEBITS_LAUNCH(layernorm_dinp_kernel<1>, grid_for_rows<1>(N), dim3(kRowThreads), 0, stream, dinp, dout, dresidual,
                    inp, weight, mean, rstd, N, (int)C);
  }
}

}  // namespace device
}  // namespace samebits
