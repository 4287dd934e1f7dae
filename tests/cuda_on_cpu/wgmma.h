// kernels/wgmma.h on a CPU: what the matrix unit of compute capability 9.0 does, from a warp's lanes and shared memory.
//
// Made to show mistakes: from a product's issue until its wait d holds no result, and a and b are read at the wait; a
// bulk copy's destination is NaN until the copy comes, which is when no thread of the block can go on. Others go on
// before a thread that has arrived at a barrier, or waits for its products.
#pragma once

#include "shim.h"

namespace samebits {
namespace shim {

template <int kCount>
static inline void issue_product(Issued& issued, int32_t (&d)[kCount], const void* a, const void* b, bool keep) {
  bool known = false;
  for (const auto& seen : issued.before) known |= seen.first == d;
  if (!known) {
    issued.before.push_back({d, std::vector<int32_t>(d, d + kCount)});
    for (int i = 0; i < kCount; i++) d[i] = 0x7fabcdef;
  }
  issued.products.push_back({d, (const uint8_t*)a, (const uint8_t*)b, keep});
}

// All products of a warp that write its lanes' d, in order.
struct Waiting {
  Issued* issued;
  int32_t* d;
  int count, first_row;
};
static inline void multiply_shared_together(void* const* lanes) {
  const Waiting* of[32];
  for (int lane = 0; lane < 32; lane++) {
    of[lane] = (const Waiting*)lanes[lane];
    for (const auto& seen : of[lane]->issued->before) {
      if (seen.first == of[lane]->d) memcpy(of[lane]->d, seen.second.data(), 4 * (size_t)of[lane]->count);
    }
  }
  const int columns = 2 * of[0]->count;
  for (const SharedProduct& product : of[0]->issued->products) {
    if (product.d != of[0]->d) continue;
    const auto at = [](const uint8_t* matrix, int row, int k) {
      return (int8_t)matrix[row / 8 * device::kUnitGroupBytes + k / 16 * device::kUnitRowBytes + row % 8 * 16 + k % 16];
    };
    for (int row = 0; row < 16; row++) {
      int8_t a[device::kUnitK];
      for (int k = 0; k < device::kUnitK; k++) a[k] = at(product.a, of[0]->first_row + row, k);
      for (int column = 0; column < columns; column++) {
        int32_t sum = 0;
        for (int k = 0; k < device::kUnitK; k++) sum += a[k] * at(product.b, column, k);
        int32_t& d = of[row % 8 * 4 + column % 8 / 2]->d[column / 8 * 4 + row / 8 * 2 + column % 2];
        d = (int32_t)((product.keep ? (uint32_t)d : 0u) + (uint32_t)sum);
      }
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    auto& before = of[lane]->issued->before;
    for (size_t i = before.size(); i-- > 0;) {
      if (before[i].first == of[lane]->d) before.erase(before.begin() + (ptrdiff_t)i);
    }
  }
}

}  // namespace shim

namespace device {

static inline void multiply_begin() { shim::issued() = shim::Issued(); }
static inline void multiply_commit() {}
template <int kN>
static inline void multiply_shared(int32_t (&d)[kN / 2], const void* a, const void* b, bool keep) {
  shim::issue_product(shim::issued(), d, a, b, keep);
}
template <int kCount>
static inline void multiply_wait(int32_t (&d)[kCount], SAMEBITS_SITE) {
  shim::go_last();
  shim::Waiting own = {&shim::issued(), d, kCount, (int)threadIdx.x % 128 / 32 * 16};
  shim::together(&own, shim::multiply_shared_together, file, line);
}

// 64 bits as on the device, of other meaning: phase, threads awaited and still missing, bytes missing.
struct BarrierBits {
  uint8_t phase, count, missing, used;
  int32_t bytes;
};
static_assert(sizeof(BarrierBits) == sizeof(Barrier), "in its place");

static inline void barrier_turn(BarrierBits& b) {
  if (b.missing == 0 && b.bytes == 0) {
    b.phase ^= 1;
    b.missing = b.count;
  }
}
static inline void barrier_init(Barrier* b, int count) {
  *(BarrierBits*)b = BarrierBits{0, (uint8_t)count, (uint8_t)count, 0, 0};
}
static inline void barriers_ready() {}
static inline void barrier_expect(Barrier* b, int bytes, SAMEBITS_SITE) {
  BarrierBits& bits = *(BarrierBits*)b;
  if (bits.missing == 0) shim::stop(file, line);  // more arrive than are awaited
  bits.missing--;
  bits.bytes += bytes;
  barrier_turn(bits);
}
static inline void barrier_arrive(Barrier* b, SAMEBITS_SITE) {
  barrier_expect(b, 0, file, line);
  shim::go_last();
}
static inline void barrier_wait(Barrier* b, int phase, SAMEBITS_SITE) {
  shim::wait_until([](const void* what, int over) { return ((const BarrierBits*)what)->phase != over; }, b, phase, file,
                   line);
}
static inline void copy_bulk(void* shared, const void* global, int bytes, Barrier* b, SAMEBITS_SITE) {
  if (bytes % 16 || bytes <= 0) shim::stop(file, line);
  const auto arrived = [](void* what, int count) {
    BarrierBits& bits = *(BarrierBits*)what;
    bits.bytes -= count;
    barrier_turn(bits);
  };
  shim::copy_bulk_later(shared, global, bytes, arrived, b, file, line);
}
template <int kRegisters>
static inline void take_registers() {}
template <int kRegisters>
static inline void give_registers() {}

}  // namespace device
}  // namespace samebits
