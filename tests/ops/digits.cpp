// The kernels in digits without torch: prints the fingerprint of each result. Built by test_digits_portable.py for
// instruction sets, for other machines, and with sabotaged sources; every honest build must print the same lines.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../cuda_ops/cpu/kernels.h"

using namespace samebits::SAMEBITS_ISA;

namespace samebits {
int thread_count() { return 2; }
int grain() { return 1; }
bool has_dot_product() {
  const char* wanted = getenv("SAMEBITS_DOT");
  return wanted && !strcmp(wanted, "instruction");
}
}  // namespace samebits

static float* normals(int64_t n, uint32_t stream) {
  float* x = (float*)malloc((size_t)n * sizeof(float));
  fill_normal(x, n, 2026, stream, 0, 0.0f, 1.0f);
  for (int64_t i = 0; i < n; i += 11) x[i] *= i % 3 ? 1e-41f : 100.0f;       // subnormals, and values above the rest
  for (int64_t i = 5; i < n; i += 13) x[i] = 0.5f * (float)(i % 255 - 127);  // ties
  return x;
}

static void show(const char* name, int digits, const float* x, int64_t n) {
  uint64_t sum;
  fingerprint(&sum, (const uint32_t*)x, n, 0);
  printf("%s %d %016" PRIx64 "\n", name, digits, sum);
}

int main() {
  const int64_t M = 21, N = 38, K = 140, L = 684, B = 2, T = 133, C = 24, H = 2;
  float *a = normals(M * 900, 1), *b = normals(N * 900, 2), *out = normals(M * N, 3);
  float *qkv = normals(B * T * 3 * C, 4), *dout = normals(B * T * C, 5), *y = normals(B * T * C, 6);
  float *row_max = normals(B * H * T, 7), *row_sum = normals(B * H * T, 8), *dqkv = normals(B * T * 3 * C, 9);
  float *extreme = normals(32 * 256, 10), *least = normals(32 * 256, 10);
  for (int64_t i = 0; i < B * T * 3 * C; i++) qkv[i] *= 0.1f;
  for (int64_t i = 0; i < 32 * 256; i++) {
    extreme[i] = 127.99f;
    least[i] = -127.99f;
  }
  for (int digits = 1; digits <= 2; digits++) {
    matmul_digits(out, a, b, nullptr, nullptr, M, N, K, 0, false, digits, 0);
    show("nt", digits, out, M * N);
    matmul_digits(out, a, b, nullptr, nullptr, M, N, K, 1, true, digits, 0);
    show("nn", digits, out, M * N);
    matmul_digits(out, a, b, nullptr, nullptr, M, N, 2 * K, 2, true, digits, K);
    show("tn", digits, out, M * N);
    matmul_digits(out, a, b, nullptr, nullptr, M, N, L, 0, false, digits, 0);  // more blocks than a piece has
    show("long nt", digits, out, M * N);
    matmul_digits(out, a, b, nullptr, nullptr, M, N, 900, 2, true, digits, 300);
    show("long tn", digits, out, M * N);
    matmul_digits(out, extreme, extreme, nullptr, nullptr, 16, 16, 256, 0, false, digits, 0);
    show("extreme", digits, out, 16 * 16);
    matmul_digits(out, least, extreme, nullptr, nullptr, 16, 16, 256, 0, false, digits, 0);
    show("least", digits, out, 16 * 16);
    attention_digits_forward(y, row_max, row_sum, qkv, B, T, C, H, digits);
    show("attention", digits, y, B * T * C);
    attention_digits_backward(dqkv, dout, y, qkv, row_max, row_sum, B, T, C, H, digits);
    show("backward", digits, dqkv, B * T * 3 * C);
  }
  return 0;
}
