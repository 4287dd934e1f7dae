// The fibers behind shim.h: a block's threads run one at a time, each until it waits or ends, in the schedule's order.
#include <link.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../cuda_ops/cpu/parallel.h"
#include "../../cuda_ops/kernels/launch.h"
#include "context.h"

namespace samebits {
namespace shim {

thread_local Indices indices = {{0, 0, 0}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}, nullptr, 1};

namespace {

// What a block may have: of every kind of device, and of compute capability 9.0.
constexpr int kMostThreads = 1024, kMostShared = 99 * 1024, kMostSharedOf9 = 227 * 1024;
constexpr uint64_t kCanary = 0x5afe57ac5afe57acull;

// ---------------------------------------------------------------- one block

enum Status { kReady, kAtBarrier, kInWarp, kUntil, kLast, kDone };

struct Copy {
  void* shared;
  const void* global;
  int bytes, group;
};

struct Fiber {
  Context context;
  uint3 thread;
  Status status;
  const char* file;  // where it waits
  int line;
  Vote vote;
  Exchange exchange;
  unsigned mask;
  int source, group;
  uint64_t value, result;
  void (*all)(void* const* lanes);
  bool (*condition)(const void* what, int argument);
  const void* what;
  int argument;
  std::vector<Copy> copies;
  Issued issued;
};

struct BulkCopy {
  void* shared;
  const void* global;
  int bytes;
  void (*arrived)(void* what, int bytes);
  void* what;
};

enum Order { kForward, kReverse, kRandom };
struct Schedule {
  Order order = kForward;
  uint64_t seed = 0;
};
Schedule schedule;

void set_schedule(const std::string& text) {
  schedule = Schedule();
  if (text == "reverse") schedule.order = kReverse;
  if (text.rfind("random", 0) == 0) {
    schedule.order = kRandom;
    schedule.seed = text.size() > 7 ? strtoull(text.c_str() + 7, nullptr, 10) : 1;
  } else if (text != "forward" && text != "reverse") {
    fprintf(stderr, "error: SAMEBITS_SHIM_SCHEDULE=%s: allowed are forward, reverse and random:SEED\n", text.c_str());
    abort();
  }
}
struct FromEnvironment {
  FromEnvironment() {
    const char* text = getenv("SAMEBITS_SHIM_SCHEDULE");
    set_schedule(text && *text ? text : "forward");
  }
} from_environment;

// The order of n things under the schedule.
void arrange(std::vector<int>& order, int n, uint64_t* random) {
  order.resize(n);
  std::iota(order.begin(), order.end(), 0);
  if (schedule.order == kReverse) std::reverse(order.begin(), order.end());
  if (schedule.order != kRandom) return;
  for (int i = n - 1; i > 0; i--) {
    *random = *random * 6364136223846793005ull + 1442695040888963407ull;
    std::swap(order[i], order[(*random >> 33) % (i + 1)]);
  }
}

std::string at(const char* file, int line) {
  const char* slash = strrchr(file, '/');
  return std::string(slash ? slash + 1 : file) + ":" + std::to_string(line);
}
std::string triple(const uint3& i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

// One CPU thread's fibers, reused from block to block and launch to launch.
struct Worker {
  std::unique_ptr<Fiber[]> fibers{new Fiber[kMostThreads]};
  char *stacks, *dynamic_shared;
  Context scheduler;
  int threads = 0, current = 0;
  uint3 block;
  const char* kernel = "";
  const std::function<void()>* body = nullptr;
  std::string error;
  std::vector<int> warp_order, lane_order;
  std::vector<BulkCopy> bulk_copies;

  Worker() {
    void* memory = mmap(nullptr, (size_t)kStack * kMostThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      perror("error: no memory for the stacks of a block");
      abort();
    }
    stacks = (char*)memory;
    dynamic_shared = (char*)aligned_alloc(128, kMostSharedOf9 + 1024);
  }

  Fiber& fiber() { return fibers[current]; }
  // What the running fiber waits for, and where.
  Fiber& stand(Status status, const char* file, int line) {
    Fiber& f = fiber();
    f.status = status;
    f.file = file;
    f.line = line;
    return f;
  }
  void wait() { switch_to(&fiber().context, &scheduler); }
  void fail(const std::string& what) {
    if (error.empty()) {
      error =
          std::string(kernel) + ", block " + triple(indices.block) + ", thread " + triple(fiber().thread) + ": " + what;
    }
    wait();
    abort();  // a failed block is not resumed
  }
  void resume(int i) {
    current = i;
    indices.thread = fibers[i].thread;
    switch_to(&scheduler, &fibers[i].context);
  }
  void run(uint64_t random);
  void release();
  bool release_waiting();
  bool release_last();
  std::string waiting(int i) const {
    const Fiber& f = fibers[i];
    if (f.status == kDone) return "thread " + triple(f.thread) + " has ended";
    return "thread " + triple(f.thread) + " waits at " + at(f.file, f.line) +
           (f.status == kInWarp  ? " for the lanes of a warp"
            : f.status == kUntil ? " for a barrier in shared memory"
                                 : " for the block");
  }
};

std::atomic<Worker*> workers[256];
Worker& worker() {
  struct Mine {
    Worker* pointer;
    uint32_t set;
  };
  static thread_local Mine mine = {nullptr, 1};
  if (!mine.pointer) {
    mine.pointer = new Worker;
    for (auto& slot : workers) {
      Worker* empty = nullptr;
      if (slot.compare_exchange_strong(empty, mine.pointer)) break;
    }
  }
  return *mine.pointer;
}

// Fills with NaN what shared memory is made of: the zero-initialised thread-local memory of this library.
int poison_library(dl_phdr_info* info, size_t, void* inside) {
  bool ours = false;
  const ElfW(Phdr)* tls = nullptr;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) & segment = info->dlpi_phdr[i];
    const uintptr_t first = info->dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD && (uintptr_t)inside >= first && (uintptr_t)inside < first + segment.p_memsz)
      ours = true;
    if (segment.p_type == PT_TLS) tls = &segment;
  }
  if (!ours) return 0;
  if (tls && info->dlpi_tls_data) {
    memset((char*)info->dlpi_tls_data + tls->p_filesz, 0xff, tls->p_memsz - tls->p_filesz);
  }
  return 1;
}

void enter() {
  Worker& w = worker();
  (*w.body)();
  w.fiber().status = kDone;
  w.wait();
  abort();
}

void Worker::run(uint64_t random) {
  const dim3 dim(indices.block_dim.x, indices.block_dim.y, indices.block_dim.z);
  for (int i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    f.thread = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
    f.status = kReady;
    f.group = 0;
    f.copies.clear();
    f.issued = Issued();
    char* stack = stacks + (size_t)kStack * i;
    memcpy(stack, &kCanary, sizeof kCanary);
    make_context(&f.context, stack, enter);
  }
  bulk_copies.clear();
  const int warps = (threads + 31) / 32;
  for (int64_t round = 0; error.empty(); round++) {
    arrange(warp_order, warps, &random);
    for (int w : warp_order) {
      for (bool progress = true; progress && error.empty();) {
        progress = false;
        arrange(lane_order, std::min(32, threads - 32 * w), &random);
        for (int lane : lane_order) {
          if (fibers[32 * w + lane].status != kReady) continue;
          resume(32 * w + lane);
          progress = true;
          if (!error.empty()) return;
        }
      }
    }
    int done = 0;
    for (int i = 0; i < threads; i++) done += fibers[i].status == kDone;
    if (done == threads) break;
    release();
  }
  for (int i = 0; i < threads && error.empty(); i++) {
    if (memcmp(stacks + (size_t)kStack * i, &kCanary, sizeof kCanary)) {
      error = std::string(kernel) + ": thread " + triple(fibers[i].thread) + " overflowed its stack";
    }
  }
}

bool Worker::release_last() {
  bool any = false;
  for (int i = 0; i < threads; i++) {
    if (fibers[i].status != kLast) continue;
    fibers[i].status = kReady;
    any = true;
  }
  return any;
}

// Threads whose condition holds go on; if there are none, a copy by another unit comes, any of those under way. Threads
// that let all others go first come before the copies or after them.
bool Worker::release_waiting() {
  for (;;) {
    bool any = false;
    for (int i = 0; i < threads; i++) {
      Fiber& f = fibers[i];
      if (f.status != kUntil || !f.condition(f.what, f.argument)) continue;
      f.status = kReady;
      any = true;
    }
    if (any || (schedule.order == kForward && release_last())) return true;
    if (bulk_copies.empty()) return release_last();
    const size_t which = schedule.order == kForward ? 0 : bulk_copies.size() - 1;
    const BulkCopy copy = bulk_copies[which];
    bulk_copies.erase(bulk_copies.begin() + (ptrdiff_t)which);
    memcpy(copy.shared, copy.global, copy.bytes);
    copy.arrived(copy.what, copy.bytes);
  }
}

// Nobody can run: either some wait for what has happened, or all wait at one barrier, which opens, or the block is
// stuck.
void Worker::release() {
  if (release_waiting()) return;
  const Fiber& first = fibers[0];
  uint64_t any = 0, count = 0;
  for (int i = 0; i < threads; i++) {
    const Fiber& f = fibers[i];
    if (f.status != kAtBarrier || f.file != first.file || f.line != first.line) {
      const int other = i == 0 ? std::min(1, threads - 1) : 0;
      error = std::string(kernel) + ", block " + triple(indices.block) + ": " + waiting(i) + ", " + waiting(other) +
              ": the block can never go on";
      return;
    }
    any |= f.value;
    count += f.value != 0;
  }
  for (int i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    f.status = kReady;
    f.result = f.vote == kCount ? count : f.vote == kAnd ? count == (uint64_t)threads : count != 0;
  }
}

void out_of_time(int) {
  for (auto& slot : workers) {
    const Worker* w = slot.load();
    if (!w || !*w->kernel) continue;
    char text[256];
    const uint3 &t = w->fibers[w->current].thread, &b = w->block;
    const int n = snprintf(text, sizeof text, "error: %s, block (%u,%u,%u), thread (%u,%u,%u): not finished in time\n",
                           w->kernel, b.x, b.y, b.z, t.x, t.y, t.z);
    if (write(2, text, n) < 0) _exit(135);
  }
  _exit(134);
}

}  // namespace

// ---------------------------------------------------------------- what a fiber calls

int barrier(Vote vote, int value, const char* file, int line) {
  Worker& w = worker();
  Fiber& f = w.stand(kAtBarrier, file, line);
  f.vote = vote;
  f.value = value != 0;
  w.wait();
  return (int)f.result;
}

void stop(const char* file, int line) { worker().fail("stopped at " + at(file, line)); }

Issued& issued() { return worker().fiber().issued; }

int lane() { return worker().current % 32; }

uint64_t warp(Exchange exchange, unsigned mask, uint64_t value, int source, const char* file, int line) {
  Worker& w = worker();
  const int first = w.current / 32 * 32, lanes = std::min(32, w.threads - first);
  if (mask == ~0u && lanes < 32) mask = (1u << lanes) - 1;  // the lanes that exist
  if (!(mask >> (w.current - first) & 1)) w.fail("calls at " + at(file, line) + " with a mask that leaves it out");
  Fiber& f = w.stand(kInWarp, file, line);
  f.exchange = exchange;
  f.mask = mask;
  f.value = value;
  f.source = source;
  uint64_t votes = 0;
  for (int i = 0; i < lanes; i++) {
    if (!(mask >> i & 1)) continue;
    const Fiber& other = w.fibers[first + i];
    if (other.status != kInWarp || other.mask != mask || other.file != file || other.line != line) {
      w.wait();
      return f.result;
    }
    votes |= (uint64_t)(other.value != 0) << i;
  }
  if (exchange == kTogether) {
    void* given[32];
    if (lanes < 32) w.fail("at " + at(file, line) + " a warp has fewer than 32 lanes");
    for (int i = 0; i < 32; i++) given[i] = (void*)w.fibers[first + i].value;
    f.all(given);
  }
  for (int i = 0; i < lanes; i++) {
    if (!(mask >> i & 1)) continue;
    Fiber& other = w.fibers[first + i];
    other.result = votes;
    if (exchange == kShuffle) {
      if (other.source >= lanes || !(mask >> other.source & 1)) {
        w.fail("at " + at(file, line) + " lane " + std::to_string(i) + " reads lane " + std::to_string(other.source) +
               ", which takes no part");
      }
      other.result = w.fibers[first + other.source].value;
    }
    other.status = kReady;
  }
  return f.result;
}

void together(void* own, void (*all)(void* const* lanes), const char* file, int line) {
  worker().fiber().all = all;
  warp(kTogether, ~0u, (uint64_t)own, 0, file, line);
}

void copy_later(void* shared, const void* global, int bytes, const char* file, int line) {
  Worker& w = worker();
  if ((uintptr_t)shared % bytes || (uintptr_t)global % bytes) {
    w.fail("copies " + std::to_string(bytes) + " bytes at " + at(file, line) +
           " from or to an address that is not aligned");
  }
  memset(shared, 0xff, bytes);
  w.fiber().copies.push_back({shared, global, bytes, w.fiber().group});
}

void commit_copies() { worker().fiber().group++; }

void finish_copies(int groups_left) {
  Fiber& f = worker().fiber();
  std::vector<Copy> later;
  for (const Copy& copy : f.copies) {
    if (copy.group < f.group - groups_left) {
      memcpy(copy.shared, copy.global, copy.bytes);
    } else {
      later.push_back(copy);
    }
  }
  f.copies.swap(later);
}

void wait_until(bool (*condition)(const void* what, int argument), const void* what, int argument, const char* file,
                int line) {
  Worker& w = worker();
  while (!condition(what, argument)) {
    Fiber& f = w.stand(kUntil, file, line);
    f.condition = condition;
    f.what = what;
    f.argument = argument;
    w.wait();
  }
}

void go_last() {
  Worker& w = worker();
  w.fiber().status = kLast;
  w.wait();
}

void copy_bulk_later(void* shared, const void* global, int bytes, void (*arrived)(void* what, int bytes), void* what,
                     const char* file, int line) {
  Worker& w = worker();
  if ((uintptr_t)shared % 16 || (uintptr_t)global % 16) {
    w.fail("copies " + std::to_string(bytes) + " bytes at " + at(file, line) +
           " from or to an address that is not aligned");
  }
  memset(shared, 0xff, bytes);
  w.bulk_copies.push_back({shared, global, bytes, arrived, what});
}

// An H100's, but for its matrix unit and so that few blocks have many tiles; or what the environment says.
int attribute(int which) {
  const char* const names[] = {"SAMEBITS_SHIM_MAJOR", "SAMEBITS_SHIM_MINOR", "SAMEBITS_SHIM_PROCESSORS",
                               "SAMEBITS_SHIM_SHARED"};
  const int values[] = {8, 0, 3, 228 * 1024};
  const char* text = getenv(names[which]);
  return text ? atoi(text) : values[which];
}

std::map<std::string, int> launches;  // of each kernel that ran to its end

void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  const uint64_t threads = (uint64_t)block.x * block.y * block.z, blocks = (uint64_t)grid.x * grid.y * grid.z;
  if (!threads || !blocks || threads > kMostThreads || block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535 ||
      shared_bytes > (size_t)(attribute(device::kCapabilityMajor) == 9 ? kMostSharedOf9 : kMostShared)) {
    throw std::runtime_error(std::string(name) + ": cannot be launched: grid " + triple({grid.x, grid.y, grid.z}) +
                             ", block " + triple({block.x, block.y, block.z}) + ", " + std::to_string(shared_bytes) +
                             " bytes of dynamic shared memory");
  }
  std::vector<int> order;
  uint64_t random = schedule.seed;
  arrange(order, (int)blocks, &random);
  const int wanted = (int)std::min<uint64_t>(thread_count(), blocks);
  const char* seconds = getenv("SAMEBITS_SHIM_SECONDS");
  signal(SIGALRM, out_of_time);
  alarm(seconds ? atoi(seconds) : 120);
  std::string error;
#pragma omp parallel num_threads(wanted) if (wanted > 1)
  {
    SAMEBITS_ISA::FloatEnvironment environment;
    Worker& w = worker();
    w.kernel = name;
    w.body = &body;
    w.threads = (int)threads;
    w.error.clear();
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < (int64_t)blocks; i++) {
      if (!w.error.empty()) continue;
      const unsigned b = (unsigned)order[i];
      w.block = indices.block = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
      indices.block_dim = {block.x, block.y, block.z};
      indices.grid_dim = {grid.x, grid.y, grid.z};
      indices.dynamic_shared = w.dynamic_shared;
      memset(w.dynamic_shared, 0xff, shared_bytes + 64);
      dl_iterate_phdr(poison_library, (void*)&poison_library);
      w.run(random + b);
    }
#pragma omp critical
    if (error.empty()) error = w.error;
    w.kernel = "";
  }
  alarm(0);
  if (!error.empty()) throw std::runtime_error(error);
  launches[name]++;
}

}  // namespace shim

device::Scratch::Scratch(Stream, size_t bytes) : data_(malloc(bytes)) { memset(data_, 0xff, bytes); }
device::Scratch::~Scratch() { free(data_); }

}  // namespace samebits

extern "C" __attribute__((visibility("default"))) void samebits_shim_schedule(const char* text) {
  samebits::shim::set_schedule(text);
}

// How often kernels have run whose name begins so.
extern "C" __attribute__((visibility("default"))) int samebits_shim_launches(const char* kernel) {
  int count = 0;
  for (const auto& [name, times] : samebits::shim::launches) count += name.rfind(kernel, 0) == 0 ? times : 0;
  return count;
}
