// CUDA's execution model on a CPU, as far as cuda_ops/kernels/*.cu use it: included by launch.h in place of the CUDA
// runtime when SAMEBITS_CUDA_ON_CPU is defined. Every thread of a block is a fiber (shim.cpp); blocks are shared out
// among the CPU's threads.
//
// Made to show mistakes rather than to hide them: shared memory is NaN when a block starts; a cp.async destination is
// NaN from the copy's issue until its wait; the order in which threads run is forward, reverse or random
// (SAMEBITS_SHIM_SCHEDULE=forward|reverse|random:SEED, or samebits_shim_schedule()); a barrier that some thread misses,
// or reaches on another line, is an error that names kernel, block and threads.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Shared memory is zero-initialised thread-local memory of the library; shim.cpp finds it as such, to poison it.
#define __shared__ static thread_local

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
#define SAMEBITS_VECTOR(type, name, bytes)                                        \
  struct __align__(2 * bytes) name##2 { type x, y; };                             \
  struct __align__(4 * bytes) name##4 { type x, y, z, w; };                       \
  static inline name##2 make_##name##2(type x, type y) { return name##2 {x, y}; } \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return name##4 {x, y, z, w}; }
SAMEBITS_VECTOR(float, float, 4)
SAMEBITS_VECTOR(int, int, 4)
SAMEBITS_VECTOR(unsigned, uint, 4)
#undef SAMEBITS_VECTOR
struct __align__(16) ulonglong2 {
  unsigned long long x, y;
};
typedef int cudaError_t;

namespace samebits {
namespace shim {

// What the running fiber sees. Not zero-initialised, so that poisoning shared memory leaves it alone.
struct Indices {
  uint3 thread, block;
  uint3 block_dim, grid_dim;
  char* dynamic_shared;
  uint32_t set;
};
extern thread_local Indices indices __attribute__((tls_model("global-dynamic")));

enum Exchange { kShuffle, kBallot, kTogether };
enum Vote { kNone, kOr, kAnd, kCount };

int barrier(Vote vote, int value, const char* file, int line);
// Waits for the lanes of mask; returns what lane `source` of the warp gave, or the lanes that gave non-zero.
uint64_t warp(Exchange exchange, unsigned mask, uint64_t value, int source, const char* file, int line);
// What a whole warp does as one, once its 32 lanes are here: all(what each lane has given).
void together(void* own, void (*all)(void* const* lanes), const char* file, int line);
int lane();
void stop(const char* file, int line);
void copy_later(void* shared, const void* global, int bytes, const char* file, int line);
void commit_copies();
void finish_copies(int groups_left);
int attribute(int which);

// Of a thread: products that a unit beside it makes (wgmma.h), and what their results stood on.
struct SharedProduct {
  int32_t* d;
  const uint8_t *a, *b;
  bool keep;
};
struct Issued {
  std::vector<SharedProduct> products;
  std::vector<std::pair<int32_t*, std::vector<int32_t>>> before;
};
Issued& issued();
// Lets others run until condition(what, argument) holds.
void wait_until(bool (*condition)(const void* what, int argument), const void* what, int argument, const char* file,
                int line);
// Lets all others run as far as they can.
void go_last();
// A copy by another unit, which comes when nobody can run; arrived(what, bytes) then.
void copy_bulk_later(void* shared, const void* global, int bytes, void (*arrived)(void* what, int bytes), void* what,
                     const char* file, int line);
void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

template <class T>
static inline T shuffle(unsigned mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = warp(kShuffle, mask, bits, source, file, line);
  memcpy(&value, &bits, sizeof(T));
  return value;
}
// The lane that CUDA's shuffles of `width` read from; out of range means the lane itself.
static inline int within(int source, int width) {
  const int first = lane() / width * width;
  return source < first || source >= first + width ? lane() : source;
}

}  // namespace shim
}  // namespace samebits

#define threadIdx (samebits::shim::indices.thread)
#define blockIdx (samebits::shim::indices.block)
#define blockDim (samebits::shim::indices.block_dim)
#define gridDim (samebits::shim::indices.grid_dim)
#define warpSize 32

// ---------------------------------------------------------------- barriers and warps

#define SAMEBITS_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
static inline void __syncthreads(SAMEBITS_SITE) { samebits::shim::barrier(samebits::shim::kNone, 0, file, line); }
static inline int __syncthreads_or(int p, SAMEBITS_SITE) {
  return samebits::shim::barrier(samebits::shim::kOr, p, file, line);
}
static inline int __syncthreads_and(int p, SAMEBITS_SITE) {
  return samebits::shim::barrier(samebits::shim::kAnd, p, file, line);
}
static inline int __syncthreads_count(int p, SAMEBITS_SITE) {
  return samebits::shim::barrier(samebits::shim::kCount, p, file, line);
}
static inline void __syncwarp(unsigned mask = ~0u, SAMEBITS_SITE) {
  samebits::shim::warp(samebits::shim::kBallot, mask, 0, 0, file, line);
}
static inline unsigned __ballot_sync(unsigned mask, int p, SAMEBITS_SITE) {
  return (unsigned)samebits::shim::warp(samebits::shim::kBallot, mask, p != 0, 0, file, line);
}
static inline int __any_sync(unsigned mask, int p, SAMEBITS_SITE) { return __ballot_sync(mask, p, file, line) != 0; }
static inline int __all_sync(unsigned mask, int p, SAMEBITS_SITE) {
  return __ballot_sync(mask, p, file, line) == __ballot_sync(mask, 1, file, line);
}
template <class T>
static inline T __shfl_sync(unsigned mask, T v, int source, int width = 32, SAMEBITS_SITE) {
  return samebits::shim::shuffle(mask, v, samebits::shim::lane() / width * width + (source & (width - 1)), file, line);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, SAMEBITS_SITE) {
  return samebits::shim::shuffle(mask, v, samebits::shim::within(samebits::shim::lane() ^ bits, width), file, line);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, SAMEBITS_SITE) {
  return samebits::shim::shuffle(mask, v, samebits::shim::within(samebits::shim::lane() + (int)by, width), file, line);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, SAMEBITS_SITE) {
  return samebits::shim::shuffle(mask, v, samebits::shim::within(samebits::shim::lane() - (int)by, width), file, line);
}

// ---------------------------------------------------------------- memory and integers

template <class T>
static inline T __ldg(const T* p) {
  return *p;
}
template <class T>
static inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
static inline void __stcs(T* p, T v) {
  *p = v;
}
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __threadfence(); }
template <class T>
static inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
static inline T max(T a, T b) {
  return a < b ? b : a;
}
// Bytes of two words, numbered 0 to 7, as four digits of the selector name them.
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = (uint64_t)y << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= (unsigned)(both >> (8 * (selector >> (4 * i) & 7)) & 255) << (8 * i);
  return result;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }

// Integers only: a float atomic has no order, and none may be written.
template <class T>
static inline T atomicAdd(T* p, T v) {
  static_assert(T(1) / T(2) == 0, "atomicAdd on integers only");
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T>
static inline T atomicMin(T* p, T v) {
  static_assert(T(1) / T(2) == 0, "atomicMin on integers only");
  T seen = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (v < seen && !__atomic_compare_exchange_n(p, &seen, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}

#define __trap() samebits::shim::stop(__builtin_FILE(), __builtin_LINE())

// ---------------------------------------------------------------- launch.h's names

namespace samebits {
namespace device {

template <int kBytes>
static inline void copy_async(void* shared, const void* global, SAMEBITS_SITE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  shim::copy_later(shared, global, kBytes, file, line);
}
static inline void copy_async_commit() { shim::commit_copies(); }
enum Attribute { kCapabilityMajor, kCapabilityMinor, kProcessors, kSharedPerProcessor };
static inline int device_attribute(Attribute which) { return shim::attribute(which); }
static inline void* host_memory(size_t bytes) { return calloc(1, bytes); }
template <int kGroups>
static inline void copy_async_wait() {
  shim::finish_copies(kGroups);
}

template <class Kernel, class... Arguments>
void launch(const char* name, Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, Stream,
            Arguments... arguments) {
  shim::launch(name, grid, block, shared_bytes, [&] { kernel(arguments...); });
}

}  // namespace device
}  // namespace samebits

#define SAMEBITS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define SAMEBITS_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(samebits::shim::indices.dynamic_shared)
