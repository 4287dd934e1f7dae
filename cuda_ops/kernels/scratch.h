// Device memory that lives until the launcher returns: what is queued on the same stream later may have it next, so no
// kernel of another stream may use it. Defined by whoever links the launchers: bindings/cuda.cpp does it over torch's
// allocator, which also serves graph capture.
#pragma once

#include <stddef.h>

#include "kernels.h"

namespace samebits {
namespace device {

class Scratch {
 public:
  Scratch(Stream stream, size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void* data_;
};

}  // namespace device
}  // namespace samebits
