// The kernels without torch: fills inputs, runs forward and backward kernels, and prints the fingerprint of each
// result. Built for this machine and for others by test_portable.py; every build must print the same lines.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../cuda_ops/cpu/kernels.h"
#include "../../cuda_ops/cpu/threads.h"

using namespace samebits::baseline;

namespace samebits {
int thread_count() { return 2; }
int grain() { return 1; }
bool has_dot_product() { return false; }
}  // namespace samebits

static float* normals(int64_t n, uint32_t stream) {
  float* x = (float*)malloc((size_t)n * sizeof(float));
  fill_normal(x, n, 2026, stream, 0, 0.0f, 1.0f);
  return x;
}

static void show(const char* name, const float* x, int64_t n) {
  uint64_t sum;
  fingerprint(&sum, (const uint32_t*)x, n, 0);
  printf("%s %016" PRIx64 "\n", name, sum);
}

int main() {
  const int64_t B = 2, T = 37, C = 48, H = 3, N = B * T;
  float *x = normals(N * C, 1), *w = normals(4 * C * C, 2), *bias = normals(4 * C, 3);
  float *wide = normals(N * 4 * C, 4), *dx = normals(N * C, 5), *dw = normals(4 * C * C, 6);
  for (int64_t i = 0; i < N * C; i += 11) x[i] *= 1e-41f;  // subnormals
  matmul(wide, x, w, bias, N, 4 * C, C, 0, false);
  show("matmul nt", wide, N * 4 * C);
  matmul(dx, wide, w, nullptr, N, C, 4 * C, 1, false);
  show("matmul nn", dx, N * C);
  matmul(dw, wide, x, nullptr, 4 * C, C, N, 2, true);
  show("matmul tn", dw, 4 * C * C);
  gelu_forward(wide, wide, N * 4 * C);
  show("gelu", wide, N * 4 * C);
  float *qkv = normals(N * 3 * C, 7), *out = normals(N * C, 8), *dqkv = normals(N * 3 * C, 9);
  float *row_max = normals(B * H * T, 10), *row_sum = normals(B * H * T, 11);
  attention_forward(out, row_max, row_sum, qkv, B, T, C, H);
  show("attention", out, N * C);
  attention_backward(dqkv, dx, out, qkv, row_max, row_sum, B, T, C, H);
  show("attention backward", dqkv, N * 3 * C);
  float *mean = normals(N, 12), *rstd = normals(N, 13), *dweight = normals(C, 14), *dbias = normals(C, 15);
  layernorm_forward(out, mean, rstd, x, w, bias, N, C, 1e-5f);
  layernorm_backward(dx, dweight, dbias, dx, nullptr, x, w, mean, rstd, B, T, C);
  show("layernorm backward", dx, N * C);
  show("layernorm weight", dweight, C);
  int32_t targets[N];
  for (int i = 0; i < N; i++) targets[i] = i % 40;
  cross_entropy_fused(mean, x, targets, 0.25f, N, 40, C);
  show("losses", mean, N);
  show("dlogits", x, N * C);
  for (int64_t i = 0; i < 4 * C * C; i++) dw[i] = dw[i] < 0 ? -dw[i] : dw[i];
  const float factor = 0.5f, scalars[3] = {1e-3f, 0.1f, 0.05f};
  adamw(w, dw, dw, wide, &factor, scalars, 4 * C * C, 0.9f, 0.95f, 1e-8f, 0.1f);
  show("adamw", w, 4 * C * C);
  return 0;
}
