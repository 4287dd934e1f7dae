// Tiles of matmul_digits.cu on the matrix unit of compute capability 9.0.
//
// A block stays on its multiprocessor and walks over tiles of 128 x kN outputs. One thread of a group of four warps
// brings both operands, a block of K a stage, by bulk copies that may run ahead into the next tile; two groups of four
// warps multiply 64 rows each, straight from shared memory. They take turns at the unit, so that one multiplies while
// the other goes back to fp32 or stores. Rows beyond the matrix are not copied: what lies there
// has a part only in outputs that are dropped.
#pragma once

#include "matmul_digits_tile.h"
#include "wgmma.h"

namespace samebits {
namespace device {

static_assert(kUnitRowBytes == kGroupRows * kChunk && kUnitGroupBytes == kGroupBytes && kUnitK == 2 * kChunk,
              "the unit reads operands as digits.h lays them");

template <int kDigits_, int kN_>
struct WgmmaTile {
  static constexpr int kDigits = kDigits_, kM = 2 * kUnitRows, kN = kN_;
  static constexpr int kThreads = 3 * 128;
  static constexpr int kB = kDigits * kM * kDigitBlock, kScales = kB + kDigits * kN * kDigitBlock;
  static constexpr int kStage = kScales + (kM + kN) * (int)sizeof(float);
  static constexpr int kOfStage = kStage + 2 * (int)sizeof(Barrier), kTurns = 2 * (int)sizeof(Barrier);
  static constexpr int kStages = (227 * 1024 - kTurns) / kOfStage;
  static constexpr int kBytes = kStages * kOfStage + kTurns;
};

// A stage's number and the phase of its barriers, one after the other.
template <int kStages>
struct Turn {
  int stage = 0, phase = 0;
  __device__ __forceinline__ void next() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

#if defined(SAMEBITS_WGMMA)

template <class T>
static __device__ __forceinline__ void bring_tiles(const DigitProduct& p, uint8_t* shared, Barrier* full,
                                                   Barrier* empty) {
  const int tiles_m = (p.M + T::kM - 1) / T::kM, tiles_n = (p.N + T::kN - 1) / T::kN;
  Turn<T::kStages> turn;
  for (int index = (int)blockIdx.x; index < tiles_m * tiles_n; index += (int)gridDim.x) {
    const TileAt tile = tile_at(index, tiles_m, tiles_n);
    const int row = tile.m * T::kM, column = tile.n * T::kN;
    const int rows = min(p.a.groups * kGroupRows - row, T::kM), columns = min(p.b.groups * kGroupRows - column, T::kN);
    for (int block = 0; block < p.a.blocks; block++) {
      uint8_t* const to = shared + turn.stage * T::kStage;
      Barrier* const here = full + turn.stage;
      barrier_wait(empty + turn.stage, turn.phase ^ 1);
      barrier_expect(here, (rows + columns) * (T::kDigits * kDigitBlock + (int)sizeof(float)));
#pragma unroll
      for (int n = 0; n < T::kDigits; n++) {
        copy_bulk(to + n * T::kM * kDigitBlock, p.a.digit(block, n, T::kDigits) + (int64_t)row * kDigitBlock,
                  rows * kDigitBlock, here);
        copy_bulk(to + T::kB + n * T::kN * kDigitBlock, p.b.digit(block, n, T::kDigits) + (int64_t)column * kDigitBlock,
                  columns * kDigitBlock, here);
      }
      copy_bulk(to + T::kScales, p.a.scale(block) + row, rows * (int)sizeof(float), here);
      copy_bulk(to + T::kScales + T::kM * sizeof(float), p.b.scale(block) + column, columns * (int)sizeof(float), here);
      turn.next();
    }
  }
}

template <class T>
static __device__ __forceinline__ void multiply_tiles(const DigitProduct& p, const uint8_t* shared, Barrier* full,
                                                      Barrier* empty, Barrier* turns, int group) {
  constexpr int kDigits = T::kDigits, kN = T::kN, kStep = 2 * kUnitRowBytes;  // bytes from 32 values to the next
  const int tiles_m = (p.M + T::kM - 1) / T::kM, tiles_n = (p.N + T::kN - 1) / T::kN;
  const int own = group * kUnitRows, lane = (int)threadIdx.x % 32,
            own_row = own + (int)threadIdx.x % 128 / 32 * 16 + lane / 4;
  const int own_column = lane % 4 * 2;
  Turn<T::kStages> turn;
  int over = group ^ 1;  // the phase that ends when it is this group's turn: the first group begins
  const auto take_turn = [&] {
    barrier_wait(turns + group, over);
    over ^= 1;
  };
  const auto pass_turn = [&] {
    if (lane == 0) barrier_arrive(turns + (group ^ 1));
  };
  for (int index = (int)blockIdx.x; index < tiles_m * tiles_n; index += (int)gridDim.x) {
    const TileAt tile = tile_at(index, tiles_m, tiles_n);
    const int row = tile.m * T::kM + own_row, column = tile.n * kN + own_column;
    float sum[kN / 8][4];
#pragma unroll
    for (int j = 0; j < kN / 8; j++) {
#pragma unroll
      for (int at = 0; at < 4; at++) sum[j][at] = 0.0f;
      if (p.accumulate) load_outputs(sum[j], p, row, column + 8 * j);
    }
    for (int block = 0; block < p.a.blocks; block++) {
      const uint8_t* const stage = shared + turn.stage * T::kStage;
      const uint8_t* const a = stage + own * kDigitBlock;
      const uint8_t* const b = stage + T::kB;
      int32_t hh[kN / 2], mixed[kDigits == 2 ? kN / 2 : 1];
      barrier_wait(full + turn.stage, turn.phase);
      take_turn();
      multiply_begin();
#pragma unroll
      for (int k = 0; k < kDigitBlock / kUnitK; k++) {
        multiply_shared<kN>(hh, a + k * kStep, b + k * kStep, k > 0);
        if constexpr (kDigits == 2) {
          multiply_shared<kN>(mixed, a + k * kStep, b + kN * kDigitBlock + k * kStep, k > 0);
          multiply_shared<kN>(mixed, a + T::kM * kDigitBlock + k * kStep, b + k * kStep, true);
        }
      }
      multiply_commit();
      pass_turn();
      multiply_wait(hh);
      multiply_wait(mixed);
      const float* const scales_a = reinterpret_cast<const float*>(stage + T::kScales);
      const float* const scales_b = scales_a + T::kM + own_column;
      const float scale_a[2] = {scales_a[own_row], scales_a[own_row + 8]};
#pragma unroll
      for (int j = 0; j < kN / 8; j++) {
        const Pack<2> scale_b = load<2>(scales_b + 8 * j);
#pragma unroll
        for (int at = 0; at < 4; at++) {
          sum[j][at] = join<kDigits>(hh[4 * j + at], kDigits == 2 ? mixed[kDigits == 2 ? 4 * j + at : 0] : 0,
                                     scale_a[at / 2], scale_b.x[at % 2], sum[j][at]);
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + turn.stage);
      turn.next();
    }
    const bool inside = p.wide && (tile.m + 1) * T::kM <= p.M && (tile.n + 1) * kN <= p.N;
#pragma unroll
    for (int j = 0; j < kN / 8; j++) store_outputs(p, row, column + 8 * j, sum[j], inside);
  }
}

#endif

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) matmul_digits_wgmma(DigitProduct p) {
#if defined(SAMEBITS_WGMMA)
  SAMEBITS_DYNAMIC_SHARED(uint8_t, shared);
  Barrier* const full = reinterpret_cast<Barrier*>(shared + T::kStages * T::kStage);
  Barrier *const empty = full + T::kStages, *const turns = empty + T::kStages;
  const int group = (int)threadIdx.x / 128;
  if (threadIdx.x == 0) {
    for (int i = 0; i < T::kStages; i++) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, 8);  // a lane of each warp that multiplies
    }
    for (int i = 0; i < 2; i++) barrier_init(turns + i, 4);
    barriers_ready();
  }
  __syncthreads();
  if (group == 2) {
    give_registers<24>();
    if (threadIdx.x % 128 == 0) bring_tiles<T>(p, shared, full, empty);
  } else {
    take_registers<240>();
    multiply_tiles<T>(p, shared, full, empty, turns, group);
  }
#endif
}

}  // namespace device
}  // namespace samebits
