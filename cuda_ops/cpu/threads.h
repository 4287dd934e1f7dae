#pragma once

namespace samebits {
// Threads that a kernel may use: what set_threads gave, else OpenMP's default.
int thread_count();
}  // namespace samebits
