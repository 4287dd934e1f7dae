// One elementary function over fp32 bit patterns: its fingerprint and its error against the C library in binary64.
//
//   unary function first end step     patterns in pieces of 2^16; every step-th piece of [first, end)
//
// Prints: inputs, fingerprint (position = bit pattern, a NaN counts as 7fc00000), largest error in ulps and its input,
// largest absolute error for results below 1, share not correctly rounded. The reference is a formula over the C
// library's binary64 functions, whose own error is some 2^-26 ulp of fp32: it settles every maximum, and nearly every
// rounding.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../cuda_ops/cpu/kernels.h"
#include "../../cuda_ops/cpu/threads.h"
#include "../../cuda_ops/numerics/fingerprint.h"
#include "../../cuda_ops/numerics/unary.h"

using namespace samebits::SAMEBITS_ISA;

namespace samebits {
int thread_count() { return 1; }
int grain() { return 1; }
bool has_dot_product() { return false; }
}  // namespace samebits

// GELU in its tanh form is x s with s = 1 / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
constexpr double kSlope = 1.5957691216057307, kCube = kSlope * 0.044715;  // 2 sqrt(2 / pi)

static double gelu_reference(double x) { return x / (1.0 + exp(-(kSlope * x + kCube * x * x * x))); }

static double gelu_derivative_reference(double x) {
  const double held = fmin(fmax(x, -16.0), 16.0);  // beyond, it has reached its limits far below fp32
  const double g = exp(-(kSlope * held + kCube * held * held * held)), s = 1.0 / (1.0 + g);
  const double value = s + held * s * (g * s) * (kSlope + 3.0 * kCube * held * held);
  return x != x ? x : held < -15.9 ? 0.0 : value;
}

// sin(2 pi x), reduced exactly to an eighth of a turn; the cosine is a quarter ahead.
template <bool kCosine>
static double turn_reference(double x) {
  const double quarters = rint(x * 4.0), t = (x - quarters * 0.25) * (2.0 * M_PI);
  const double c = cos(t), s = sin(t);
  const int quarter = (int)quarters + (kCosine ? 1 : 0);
  const double value = quarter & 1 ? c : s;
  return quarter & 2 ? -value : value;
}

// The compiler calls libmvec, the C library's vector functions: errors up to 4 ulp of binary64.
template <class Function>
static void all(double* r, const float* x, int64_t n, Function f) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) r[i] = f((double)x[i]);
}

static void references(int function, double* r, const float* x, int64_t n) {
  switch (function) {
    case kExp:
      return all(r, x, n, [](double v) { return exp(v < -200.0 ? -200.0 : v > 200.0 ? 200.0 : v); });
    case kLog:
      return all(r, x, n, [](double v) { return log(v); });
    case kSqrt:
      return all(r, x, n, [](double v) { return sqrt(v); });
    case kGelu:
      return all(r, x, n, gelu_reference);
    case kGeluDerivative:
      return all(r, x, n, gelu_derivative_reference);
    case kCosTurn:
      return all(r, x, n, turn_reference<true>);
    default:
      return all(r, x, n, turn_reference<false>);
  }
}

static uint64_t to_bits64(double x) {
  uint64_t u;
  memcpy(&u, &x, 8);
  return u;
}

static double ulps_of(float y, double r) {
  const float nearest = (float)r;
  if (nearest == y || (nearest != nearest && y != y)) {  // also both infinite, both NaN
    if (!(fabs(r) < 3.4e38) || nearest == 0.0f) return 0.0;
  }
  int64_t e = (int64_t)(to_bits64(r) >> 52 & 0x7ff) - 1023;
  e = e < -126 ? -126 : e;
  const uint64_t scale_bits = (uint64_t)(1023 + 23 - e) << 52;
  double scale;
  memcpy(&scale, &scale_bits, 8);
  return fabs((double)y - r) * scale;
}

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const int function = atoi(argv[1]);
  const int64_t first = atoll(argv[2]), end = atoll(argv[3]), step = atoll(argv[4]), piece = 1 << 16;
  uint64_t sum = 0, inputs = 0, misrounded = 0;
  double worst = 0, absolute = 0;
  uint32_t worst_at = 0;
#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t begin = first; begin < end; begin += piece * step) {
    static thread_local float x[1 << 16], y[1 << 16];
    static thread_local double r[1 << 16], error[1 << 16];
    const int64_t n = end - begin < piece ? end - begin : piece;
    for (int64_t i = 0; i < n; i++) x[i] = from_bits((uint32_t)(begin + i));
    unary(y, x, n, function);
    references(function, r, x, n);
    uint64_t part = 0, bad = 0;
    double most = 0, most_absolute = 0;
    for (int64_t i = 0; i < n; i++) {
      part += fingerprint_mix(y[i] != y[i] ? 0x7fc00000u : to_bits(y[i]), (uint64_t)(begin + i));
      bad += (float)r[i] != y[i] && (r[i] == r[i] || y[i] == y[i]);
    }
    for (int64_t i = 0; i < n; i++) error[i] = (r[i] != r[i]) != (y[i] != y[i]) ? HUGE_VAL : ulps_of(y[i], r[i]);
#pragma omp simd reduction(max : most, most_absolute)
    for (int64_t i = 0; i < n; i++) {
      most = error[i] > most ? error[i] : most;
      const double off = fabs(r[i]) < 1.0 ? fabs((double)y[i] - r[i]) : 0.0;
      most_absolute = off > most_absolute ? off : most_absolute;
    }
#pragma omp critical
    {
      sum += part, inputs += (uint64_t)n, misrounded += bad;
      if (most_absolute > absolute) absolute = most_absolute;
      int64_t i = 0;
      while (most > 0 && error[i] != most) i++;
      if (most > worst || (most == worst && to_bits(x[i]) < worst_at)) worst = most, worst_at = to_bits(x[i]);
    }
  }
  printf("%" PRIu64 " %016" PRIx64 " %.4f %08x %.3e %.3e\n", inputs, sum, worst, worst_at, absolute,
         (double)misrounded / (double)inputs);
  return 0;
}
