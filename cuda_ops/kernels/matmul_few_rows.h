// Few rows of A (decoding): every byte of B is used once, so what counts is bytes in flight. A block owns kFewRows x
// 32 outputs: a warp a row, a lane a column, a thread one chain. b is [32][kFewK + 4] in shared memory where it is
// dense along k, else [kFewK][32]; a is [kFewRows][kFewK].
#pragma once

#include "tile.h"

namespace samebits {
namespace device {

constexpr int kFewRows = 8;
constexpr int kFewK = 64;
constexpr int kFewColumns = 32;
constexpr int kFewThreads = 32 * kFewRows;
constexpr int kFewStages = 6;  // 40 KiB on the way: what a memory of 900 clocks asks of a block that is alone
constexpr int kFewStage = kFewColumns * (kFewK + kPad) + kFewRows * kFewK;  // floats

template <bool kAlongK>
__global__ void __launch_bounds__(kFewThreads, 2)
    matmul_few_rows(float* out, const float* a, const float* b, const float* bias, int64_t M, int64_t N, int64_t K,
                    int64_t a_row, int64_t a_step, bool accumulate, bool wide) {
  SAMEBITS_DYNAMIC_SHARED(float, shared);
  const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int64_t m0 = (int64_t)blockIdx.y * kFewRows, n0 = (int64_t)blockIdx.x * kFewColumns;
  const int64_t row = m0 + warp, column = n0 + lane;
  constexpr int kStride = kAlongK ? kFewK + kPad : kFewColumns;  // of b in shared memory

  // What this thread copies of each stage, from where, and at which k; both go on by a stage after every copy.
  constexpr int kQuads = kFewColumns * kFewK / 4 / kFewThreads, kSingles = kFewRows * kFewK / kFewThreads;
  // The dense direction is `inner`: k along rows of b[N,K], columns along rows of b[K,N].
  constexpr int kInner = kAlongK ? kFewK : kFewColumns, kOuter = kAlongK ? kFewColumns : kFewK;
  const int64_t b_row = kAlongK ? K : N;
  const float *from_a[kSingles], *from_b[kQuads];
  bool in_a[kSingles], in_b[kQuads];
  int to_b[kQuads], k_b[kQuads];
#pragma unroll
  for (int i = 0; i < kSingles; i++) {
    const int at = thread + i * kFewThreads;
    in_a[i] = m0 + at / kFewK < M;
    from_a[i] = a + (m0 + at / kFewK) * a_row + at % kFewK * a_step;
  }
#pragma unroll
  for (int i = 0; i < kQuads; i++) {
    const int at = thread + i * kFewThreads, outer = at / (kInner / 4), inner = at % (kInner / 4) * 4;
    in_b[i] = n0 + (kAlongK ? outer : inner) < N;
    k_b[i] = kAlongK ? inner : outer;
    to_b[i] = outer * kStride + inner;
    from_b[i] = b + (kAlongK ? (n0 + outer) * b_row + inner : outer * b_row + n0 + inner);
  }
  int left = (int)K;  // k that no copy has been asked for yet
  const auto copy = [&](float* stage) {
    float* stage_a = stage + kFewColumns * (kFewK + kPad);
#pragma unroll
    for (int i = 0; i < kSingles; i++) {
      const int at = thread + i * kFewThreads;
      if (in_a[i] && at % kFewK < left) copy_async<4>(stage_a + at, from_a[i]);
      from_a[i] += kFewK * a_step;
    }
    if (wide) {
#pragma unroll
      for (int i = 0; i < kQuads; i++) {
        if (in_b[i] && k_b[i] < left) copy_async<16>(stage + to_b[i], from_b[i]);
        from_b[i] += kAlongK ? kFewK : kFewK * b_row;
      }
    } else {
      const int64_t k0 = K - left, inner0 = kAlongK ? k0 : n0, outer0 = kAlongK ? n0 : k0;
      const int64_t outer_end = kAlongK ? N : K;
      for (int at = thread; at < kOuter * kInner; at += kFewThreads) {
        const int outer = at / kInner, inner = at % kInner;
        if (outer0 + outer < outer_end && inner0 + inner < b_row) {
          copy_async<4>(stage + outer * kStride + inner, b + (outer0 + outer) * b_row + inner0 + inner);
        }
      }
    }
    copy_async_commit();
    left -= kFewK;
  };

  const bool own = row < M && column < N;
  float sum = own && accumulate ? out[row * N + column] : 0.0f;
  for (int stage = 0; stage < kFewStages - 1; stage++) copy(shared + stage * kFewStage);
  int reading = 0, writing = kFewStages - 1;
  for (int64_t k0 = 0; k0 < K; k0 += kFewK) {
    copy_async_wait<kFewStages - 2>();
    __syncthreads();
    copy(shared + writing * kFewStage);
    const float* stage_b = shared + reading * kFewStage;
    const float* stage_a = stage_b + kFewColumns * (kFewK + kPad) + warp * kFewK;
    const int count = K - k0 < kFewK ? (int)(K - k0) : kFewK;
    if (row < M) {
      int k = 0;
#pragma unroll 4
      for (; k + 4 <= count; k += 4) {
        const Quad x = load_quad(stage_a + k);
        Quad y;
        if (kAlongK) {
          y = load_quad(stage_b + lane * kStride + k);
        } else {
#pragma unroll
          for (int c = 0; c < 4; c++) y.x[c] = stage_b[(k + c) * kStride + lane];
        }
#pragma unroll
        for (int c = 0; c < 4; c++) sum = fma_(x.x[c], y.x[c], sum);
      }
      for (; k < count; k++) {
        sum = fma_(stage_a[k], kAlongK ? stage_b[lane * kStride + k] : stage_b[k * kStride + lane], sum);
      }
    }
    reading = reading + 1 == kFewStages ? 0 : reading + 1;
    writing = writing + 1 == kFewStages ? 0 : writing + 1;
  }
  if (own) out[row * N + column] = bias ? add(sum, bias[column]) : sum;
}

}  // namespace device
}  // namespace samebits
