// The matrix unit of compute capability 9.0 (compiled for sm_90a): four warps multiply 64 x 32 by 32 x kN digits that
// lie in shared memory, beside copies by which the unit's data arrive.
//
//   multiply_shared<kN>(d, a, b, keep)   d = a b, or d + a b: exact int32; from multiply_begin() to multiply_wait() no
//                                        thread may touch d, and a and b must stay
//   multiply_begin(), multiply_commit(), multiply_wait(d)
//   Barrier: barrier_init(b, count), barrier_arrive(b), barrier_expect(b, bytes) which arrives too, barrier_wait(b,
//   phase): a phase ends when `count` threads have arrived and the bytes that they expect are there
//   copy_bulk(shared, global, bytes, b)  multiples of 16 bytes, at 16-byte addresses
//   take_registers<n>(), give_registers<n>()   by all warps of a group of four
//
// a and b lie as digits.h cuts them: 8 rows x 16 bytes side by side, 128 bytes from one chunk of K to the next, and
// kGroupBytes to the next 8 rows. With g = lane / 4 and t = lane % 4, warp w of the four holds in d[4 j + 2 r + c] row
// 16 w + g + 8 r, column 8 j + 2 t + c. Tests without a GPU have tests/cuda_on_cpu/wgmma.h.
#pragma once

#include "launch.h"

namespace samebits {
namespace device {

typedef unsigned long long Barrier;

constexpr int kUnitRows = 64, kUnitK = 32;
constexpr int kUnitRowBytes = 128, kUnitGroupBytes = 1024;  // from a chunk of K to the next; from 8 rows to the next

}  // namespace device
}  // namespace samebits

#if defined(SAMEBITS_CUDA_ON_CPU)
#include "../../tests/cuda_on_cpu/wgmma.h"
#define SAMEBITS_WGMMA 1
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SAMEBITS_WGMMA 1
namespace samebits {
namespace device {

static __device__ __forceinline__ uint32_t shared_address(const void* p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

// PTX ISA, "matrix descriptor": addresses and distances in 16 bytes, no swizzle.
static __device__ __forceinline__ uint64_t descriptor(const void* p) {
  return (uint64_t)((shared_address(p) & 0x3ffff) >> 4) | (uint64_t)(kUnitRowBytes >> 4) << 16 |
         (uint64_t)(kUnitGroupBytes >> 4) << 32;
}

static __device__ __forceinline__ void multiply_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void multiply_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kCount>
static __device__ __forceinline__ void multiply_wait(int32_t (&d)[kCount]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kCount; i++) asm volatile("" : "+r"(d[i])::"memory");  // nothing of d is read before
}

#define SAMEBITS_8(i)                                                                                         \
  "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), \
      "+r"(d[i + 7])
#define SAMEBITS_32(i) SAMEBITS_8(i), SAMEBITS_8(i + 8), SAMEBITS_8(i + 16), SAMEBITS_8(i + 24)
#define SAMEBITS_NAMES_32                                                                                     \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
  "%23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SAMEBITS_NAMES_64                                                                        \
  SAMEBITS_NAMES_32                                                                              \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SAMEBITS_NAMES_96                                                                        \
  SAMEBITS_NAMES_64                                                                              \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SAMEBITS_MULTIPLY(n, names, a_, b_, keep_, ...)                                            \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " keep_ ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n \
               "k32.s32.s8.s8 {" names "}, " a_ ", " b_ ", p;\n}"                                  \
               : __VA_ARGS__                                                                       \
               : "l"(descriptor(a)), "l"(descriptor(b)), "r"((int)keep))

template <int kN>
static __device__ __forceinline__ void multiply_shared(int32_t (&d)[kN / 2], const void* a, const void* b, bool keep) {
  static_assert(kN == 64 || kN == 128 || kN == 192, "as written");
  if constexpr (kN == 64) {
    SAMEBITS_MULTIPLY(64, SAMEBITS_NAMES_32, "%32", "%33", "%34", SAMEBITS_32(0));
  } else if constexpr (kN == 128) {
    SAMEBITS_MULTIPLY(128, SAMEBITS_NAMES_64, "%64", "%65", "%66", SAMEBITS_32(0), SAMEBITS_32(32));
  } else {
    SAMEBITS_MULTIPLY(192, SAMEBITS_NAMES_96, "%96", "%97", "%98", SAMEBITS_32(0), SAMEBITS_32(32), SAMEBITS_32(64));
  }
}
#undef SAMEBITS_8
#undef SAMEBITS_32
#undef SAMEBITS_NAMES_32
#undef SAMEBITS_NAMES_64
#undef SAMEBITS_NAMES_96
#undef SAMEBITS_MULTIPLY

static __device__ __forceinline__ void barrier_init(Barrier* b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
// Barriers that one thread has made are seen by the copies of another, once the block has met.
static __device__ __forceinline__ void barriers_ready() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
static __device__ __forceinline__ void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
static __device__ __forceinline__ void barrier_expect(Barrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
static __device__ __forceinline__ void barrier_wait(Barrier* b, int phase) {
  int done = 0;
  do {
    asm volatile("{.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(b)), "r"(phase)
                 : "memory");
  } while (!done);
}

static __device__ __forceinline__ void copy_bulk(void* shared, const void* global, int bytes, Barrier* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(b))
               : "memory");
}

template <int kRegisters>
static __device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
static __device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace device
}  // namespace samebits
#endif
