// Token and position embeddings.
//
// A thread owns kWidth channels: 4 with 128-bit accesses where C % 4 == 0 and all arrays are 16-byte aligned, else 1.
// Block (x, y) of 128 threads owns 128 kWidth channels from 128 kWidth y; x is a token (forward), a row
// (embedding_add), a position (dwpe) or an occurrence (dwte). Any B, T, C.
//
// The gradient of a token belongs to the block of its first occurrence: the others find an earlier one and leave. That
// block looks through the later tokens 128 at a time and adds the matching rows of dout in token order.
//
// order: every gradient row is a chain in token order.
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kChannelThreads = 128;

// ---------------------------------------------------------------- kernels

template <int kWidth>
__device__ __forceinline__ int64_t own_channel() {
  return ((int64_t)blockIdx.y * kChannelThreads + threadIdx.x) * kWidth;
}

template <int kWidth>
__device__ __forceinline__ Pack<kWidth> add_packs(Pack<kWidth> a, const Pack<kWidth>& b) {
#pragma unroll
  for (int e = 0; e < kWidth; e++) a.x[e] = add(a.x[e], b.x[e]);
  return a;
}

template <int kWidth>
__global__ void __launch_bounds__(kChannelThreads)
    embedding_forward_kernel(float* out, const int32_t* tokens, const float* wte, const float* wpe, int64_t T,
                             int64_t C, int64_t position) {
  const int64_t c = own_channel<kWidth>(), i = blockIdx.x;
  if (c >= C) return;
  const Pack<kWidth> token = load<kWidth>(wte + (int64_t)tokens[i] * C + c);
  store<kWidth>(out + i * C + c, add_packs<kWidth>(token, load<kWidth>(wpe + (position + i % T) * C + c)));
}

template <int kWidth>
__global__ void __launch_bounds__(kChannelThreads)
    embedding_dwpe_kernel(float* dwpe, const float* dout, int64_t B, int64_t T, int64_t C) {
  const int64_t c = own_channel<kWidth>(), t = blockIdx.x;
  if (c >= C) return;
  Pack<kWidth> sum = load<kWidth>(dwpe + t * C + c);
#pragma unroll 8
  for (int64_t b = 0; b < B; b++) sum = add_packs<kWidth>(sum, load<kWidth>(dout + (b * T + t) * C + c));
  store<kWidth>(dwpe + t * C + c, sum);
}

template <int kWidth>
__global__ void __launch_bounds__(kChannelThreads)
    embedding_dwte_kernel(float* dwte, const float* dout, const int32_t* tokens, int64_t N, int64_t C) {
  __shared__ int warp_matches[kChannelThreads / 32];
  __shared__ int matches[kChannelThreads];
  const int64_t own = blockIdx.x, c = own_channel<kWidth>();
  const int32_t token = tokens[own];
  for (int64_t end = own; end > 0; end -= kChannelThreads) {  // backwards: frequent tokens leave soon
    const int64_t i = end - 1 - threadIdx.x;
    if (__syncthreads_or(i >= 0 && tokens[i >= 0 ? i : 0] == token)) return;
  }
  const bool real = c < C;
  Pack<kWidth> sum;
  if (real) sum = load<kWidth>(dwte + token * C + c);
  for (int64_t first = own; first < N; first += kChannelThreads) {
    // The places of the matches among these 128 tokens, ascending.
    const int64_t i = first + threadIdx.x;
    const bool match = i < N && tokens[i] == token;
    const unsigned lanes = __ballot_sync(~0u, match);
    if (threadIdx.x % 32 == 0) warp_matches[threadIdx.x / 32] = __popc(lanes);
    __syncthreads();
    int before = 0, count = 0;
#pragma unroll
    for (int warp = 0; warp < kChannelThreads / 32; warp++) {
      before += warp < (int)threadIdx.x / 32 ? warp_matches[warp] : 0;
      count += warp_matches[warp];
    }
    if (match) matches[before + __popc(lanes & ((1u << threadIdx.x % 32) - 1))] = (int)threadIdx.x;
    __syncthreads();
    if (real) {
#pragma unroll 4
      for (int k = 0; k < count; k++) sum = add_packs<kWidth>(sum, load<kWidth>(dout + (first + matches[k]) * C + c));
    }
    __syncthreads();
  }
  if (real) store<kWidth>(dwte + token * C + c, sum);
}

template <int kWidth>
__global__ void __launch_bounds__(kChannelThreads)
    embedding_add_kernel(float* out, const float* src, const int32_t* rows, int64_t C) {
  const int64_t c = own_channel<kWidth>(), i = blockIdx.x;
  if (c >= C || rows[i] < 0) return;
  float* const to = out + (int64_t)rows[i] * C + c;
  store<kWidth>(to, add_packs<kWidth>(load<kWidth>(to), load<kWidth>(src + i * C + c)));
}

// ---------------------------------------------------------------- launchers

template <int kWidth>
static dim3 grid_for_channels(int64_t rows, int64_t C) {
  return dim3((unsigned)rows, blocks_for(C, kChannelThreads * kWidth));
}

void embedding_forward(Stream stream, float* out, const int32_t* tokens, const float* wte, const float* wpe, int64_t B,
                       int64_t T, int64_t C, int64_t position) {
  if (B * T <= 0 || C <= 0) return;
  if (C % 4 == 0 && aligned(out, wte, wpe)) {
    SAMEBITS_LAUNCH(embedding_forward_kernel<4>, grid_for_channels<4>(B * T, C), dim3(kChannelThreads), 0, stream, out,
                    tokens, wte, wpe, T, C, position);
  } else {
    SAMEBITS_LAUNCH(embedding_forward_kernel<1>, grid_for_channels<1>(B * T, C), dim3(kChannelThreads), 0, stream, out,
                    tokens, wte, wpe, T, C, position);
  }
}

template <int kWidth>
static void embedding_backward_wide(Stream stream, float* dwte, float* dwpe, const float* dout, const int32_t* tokens,
                                    int64_t B, int64_t T, int64_t C) {
  SAMEBITS_LAUNCH(embedding_dwpe_kernel<kWidth>, grid_for_channels<kWidth>(T, C), dim3(kChannelThreads), 0, stream,
                  dwpe, dout, B, T, C);
  SAMEBITS_LAUNCH(embedding_dwte_kernel<kWidth>, grid_for_channels<kWidth>(B * T, C), dim3(kChannelThreads), 0, stream,
                  dwte, dout, tokens, B * T, C);
}

void embedding_backward(Stream stream, float* dwte, float* dwpe, const float* dout, const int32_t* tokens, int64_t B,
                        int64_t T, int64_t C) {
  if (B * T <= 0 || C <= 0) return;
  if (C % 4 == 0 && aligned(dwte, dwpe, dout)) {
    embedding_backward_wide<4>(stream, dwte, dwpe, dout, tokens, B, T, C);
  } else {
    embedding_backward_wide<1>(stream, dwte, dwpe, dout, tokens, B, T, C);
  }
}

void embedding_add(Stream stream, float* out, const float* src, const int32_t* rows, int64_t n, int64_t C) {
  if (n <= 0 || C <= 0) return;
  if (C % 4 == 0 && aligned(out, src)) {
    SAMEBITS_LAUNCH(embedding_add_kernel<4>, grid_for_channels<4>(n, C), dim3(kChannelThreads), 0, stream, out, src,
                    rows, C);
  } else {
    SAMEBITS_LAUNCH(embedding_add_kernel<1>, grid_for_channels<1>(n, C), dim3(kChannelThreads), 0, stream, out, src,
                    rows, C);
  }
}

}  // namespace device
}  // namespace samebits
