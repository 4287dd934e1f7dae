// Thread i of the grid, blocks of 256, looks at indices[i] and its neighbour before it. Any n.
//
// order: no sum. Of several wrong indices, which is named is left to chance.
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "pack.h"

namespace samebits {
namespace device {

constexpr int kCheckThreads = 256;

struct Name {
  char text[24];
};

// What a check leaves for the host, in host memory that the device writes: it can be read when the device has stopped,
// where text printed on the device may be lost.
struct Message {
  int writers;  // threads that found a wrong index: the first of them writes
  int written;
  Name name;
  int value, before;
  long long element, limit;
  bool order;
};

static Message* message = nullptr;  // until the first check

static Message* message_for_device() {
  static Message* const allocated = message = static_cast<Message*>(host_memory(sizeof(Message)));
  return allocated;
}

// ---------------------------------------------------------------- kernels

__global__ void __launch_bounds__(kCheckThreads) check_indices_kernel(const int32_t* indices, int64_t n, int64_t limit,
                                                                      bool ascending, Name name, Message* message) {
  const int64_t i = (int64_t)blockIdx.x * kCheckThreads + threadIdx.x;
  if (i >= n) return;
  const int value = indices[i], before = ascending && i > 0 ? indices[i - 1] : 0;
  if (ascending && value == -1) return;
  const bool outside = value < 0 || value >= limit, order = ascending && i > 0 && (before >= value || before == -1);
  if (!outside && !order) return;
  // The grid cannot end before its first writer stops the device, so nothing queued later runs.
  if (atomicAdd(&message->writers, 1) > 0) return;
  message->name = name;
  message->value = value;
  message->before = before;
  message->element = i;
  message->limit = limit;
  message->order = !outside;
  __threadfence_system();
  *(volatile int*)&message->written = 1;
  __threadfence_system();
  __trap();
}

// ---------------------------------------------------------------- launchers

void check_indices(Stream stream, const int32_t* indices, int64_t n, int64_t limit, bool ascending, const char* name) {
  if (n <= 0) return;
  Name copy = {};
  strncpy(copy.text, name, sizeof copy.text - 1);
  SAMEBITS_LAUNCH(check_indices_kernel, dim3(blocks_for(n, kCheckThreads)), dim3(kCheckThreads), 0, stream, indices, n,
                  limit, ascending, copy, message_for_device());
}

}  // namespace device
}  // namespace samebits

// What a check has found since the last call, or "".
extern "C" __attribute__((visibility("default"))) const char* samebits_device_message() {
  static char text[160];
  samebits::device::Message* const m = samebits::device::message;
  text[0] = 0;
  if (!m || !*(volatile int*)&m->written) return text;
  if (m->order) {
    snprintf(text, sizeof text, "%s: expected ascending and distinct, got %d then %d at %lld", m->name.text, m->before,
             m->value, m->element);
  } else {
    snprintf(text, sizeof text, "%s: element %lld is %d, allowed is 0 to %lld", m->name.text, m->element, m->value,
             m->limit - 1);
  }
  m->written = m->writers = 0;
  return text;
}
