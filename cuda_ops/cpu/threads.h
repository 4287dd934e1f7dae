#pragma once

namespace samebits {
// Threads that a kernel may use: what set_threads gave, else OpenMP's default.
int thread_count();
// Work that a thread is woken for, in the unit of parallel.h; SAMEBITS_GRAIN says another, 1 for all threads at all
// times.
int grain();
}  // namespace samebits
