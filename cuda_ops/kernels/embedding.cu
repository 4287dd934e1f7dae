// Token and position embeddings.
//
// A thread owns kWidth channels: 4 with 128-bit accesses where C % 4 == 0 and all arrays are 16-byte aligned, else 1.
// Block (x, y) of 128 threads owns 128 kWidth channels from 128 kWidth y; x is a token (forward), a row
// (embedding_add), a position (dwpe) or a place in the order of the tokens (dwte). Any B, T, C.
//
// Before dwte, the tokens are put in order by value and index: each counts how many stand before it, N x N comparisons
// of integers. The block of a value's first place adds the rows of dout that follow, in token order; the others leave.
//
// order: every gradient row is a chain in token order.
#include "pack.h"

namespace samebits {
namespace device {

constexpr int kChannelThreads = 128;
constexpr int kRankThreads = 256, kRankTokens = kRankThreads / 8, kRankTile = 2048;

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

// order[rank of i] = i for tokens[N], where tokens stand by (value, index): eight lanes of a warp count what stands
// before one token, each four of every 32 neighbours; a block has kRankTokens tokens and walks all in tiles.
__global__ void __launch_bounds__(kRankThreads) embedding_order_kernel(int* order, const int32_t* tokens, int N) {
  __shared__ __align__(16) int tile[kRankTile];
  const int part = (int)threadIdx.x % 8, i = (int)blockIdx.x * kRankTokens + (int)threadIdx.x / 8;
  const int own = i < N ? tokens[i] : 0;
  int before = 0;
  for (int first = 0; first < N; first += kRankTile) {
    for (int k = threadIdx.x; k < kRankTile; k += kRankThreads)
      tile[k] = first + k < N ? tokens[first + k] : 0x7fffffff;
    __syncthreads();
#pragma unroll 4
    for (int k = 4 * part; k < kRankTile; k += 32) {
      const int limit = own + (first + k + 4 <= i);  // an equal token stands before only if its index does
      const int4 t = *reinterpret_cast<const int4*>(tile + k);
      before += (t.x < limit) + (t.y < limit) + (t.z < limit) + (t.w < limit);
    }
    __syncthreads();
  }
  if (part == 0 && i < N) {  // equal tokens among the four that i itself is one of
    for (int k = i / 4 * 4; k < i; k++) before += tokens[k] == own;
  }
#pragma unroll
  for (int lane = 1; lane < 8; lane *= 2) before += __shfl_xor_sync(~0u, before, lane);
  if (part == 0 && i < N) order[before] = i;
}

template <int kWidth>
__global__ void __launch_bounds__(kChannelThreads)
    embedding_dwte_kernel(float* dwte, const float* dout, const int32_t* tokens, const int* order, int N, int64_t C) {
  const int own = (int)blockIdx.x, lane = (int)threadIdx.x % 32;
  const int64_t c = own_channel<kWidth>();
  const int32_t token = tokens[order[own]];
  if (own > 0 && tokens[order[own - 1]] == token) return;
  const bool real = c < C;
  Pack<kWidth> sum;
  if (real) sum = load<kWidth>(dwte + token * C + c);
  for (int first = own, count = 32; count == 32; first += 32) {
    // The next 32 places of the order, one to a lane: those of this token come first.
    const int i = first + lane < N ? order[first + lane] : -1;
    count = __popc(__ballot_sync(~0u, i >= 0 && tokens[i >= 0 ? i : 0] == token));
#pragma unroll 8
    for (int k = 0; k < count; k++) {
      const int64_t row = __shfl_sync(~0u, i, k);
      if (real) sum = add_packs<kWidth>(sum, load<kWidth>(dout + row * C + c));
    }
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
  return dim3(grid_of(rows), blocks_for(C, kChannelThreads * kWidth));
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
  const int N = (int)(B * T);
  const Scratch order(stream, (size_t)N * sizeof(int));
  SAMEBITS_LAUNCH(embedding_order_kernel, dim3(blocks_for(N, kRankTokens)), dim3(kRankThreads), 0, stream,
                  order.as<int>(), tokens, N);
  SAMEBITS_LAUNCH(embedding_dwte_kernel<kWidth>, grid_for_channels<kWidth>(N, C), dim3(kChannelThreads), 0, stream,
                  dwte, dout, tokens, order.as<int>(), N, C);
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
