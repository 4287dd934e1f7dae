// The last rows of a matrix in digits that has 2^24 more before them, against the same rows alone. Only blocks of the
// last rows run, and pages that nobody touches take no memory: those before an array are where an index that has
// wrapped around writes. Also what else tests ask of the kernels' host side (tests/ops/test_digits_limits.py).
#include <string.h>
#include <sys/mman.h>

#include "../../cuda_ops/kernels/matmul_digits.cu"

namespace samebits {
namespace device {

constexpr int64_t kFar = 1 << 24, kBefore = 1ll << 33;

class Pages {
 public:
  explicit Pages(int64_t bytes)
      : bytes_((size_t)(kBefore + bytes)),
        memory_(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::runtime_error("no room in the address space");
  }
  ~Pages() { munmap(memory_, bytes_); }
  Pages(const Pages&) = delete;
  template <class T>
  T* as() const {
    return (T*)((uint8_t*)memory_ + kBefore);
  }

 private:
  size_t bytes_;
  void* memory_;
};

template <class Kernel, class... Arguments>
static void run_block(int64_t block, int threads, size_t shared_bytes, Kernel kernel, Arguments... arguments) {
  shim::launch("a far block", dim3(1), dim3(threads), shared_bytes, [&] {
    blockIdx.x = (unsigned)block;
    kernel(arguments...);
  });
}

// As cut(), of the rows from kFar on alone.
template <int kDigits>
static void cut_far(Operand out, const float* x, int64_t rows, Blocks blocks, bool transposed) {
  if (transposed) {
    const int64_t wide = (rows + kCutWide - 1) / kCutWide;
    for (int64_t i = 0; i < out.blocks * wide; i++) {
      if (i % wide * kCutWide < kFar) continue;
      run_block(i, kCutThreads, 0, cut_columns_kernel<kDigits>, out, x, (int)rows, blocks);
    }
    return;
  }
  const int64_t warps = kCutThreads / 32, end = ((int64_t)out.groups * out.blocks + warps - 1) / warps;
  for (int64_t i = kFar / kGroupRows * out.blocks / warps; i < end; i++) {
    run_block(i, kCutThreads, 0, cut_rows_kernel<kDigits, false>, out, x, (int)rows, blocks);
  }
}

// Groups of digits, blocks of scales and tiles of outputs that differ, of x[rows, K], or transposed of x[K, rows].
template <int kDigits>
static int differing(const float* x, int64_t rows, int64_t K, bool transposed) {
  const Blocks blocks(K, K);
  const int64_t count = blocks.count(), all = kFar + rows, groups = groups_of(rows), all_groups = groups_of(all);
  const Pages near(operand_bytes(rows, count, kDigits)), far(operand_bytes(all, count, kDigits)), far_x(all * K * 4);
  const Operand a = operand_in(near.as<void>(), rows, count, kDigits),
                z = operand_in(far.as<void>(), all, count, kDigits);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t k = 0; k < K; k++) {
      far_x.as<float>()[transposed ? k * all + kFar + r : (kFar + r) * K + k] =
          x[transposed ? k * rows + r : r * K + k];
    }
  }
  cut<kDigits>(nullptr, a, x, rows, blocks, transposed);
  cut_far<kDigits>(z, far_x.as<float>(), all, blocks, transposed);

  int wrong = 0;
  for (int64_t i = 0; i < count * kDigits; i++) {
    for (int64_t group = 0; group < groups; group++) {
      const int64_t at = i * all_groups + kFar / kGroupRows + group;
      wrong +=
          memcmp(far.as<uint8_t>() + at * kGroupBytes, a.digits + (i * groups + group) * kGroupBytes, kGroupBytes) != 0;
    }
  }
  for (int64_t b = 0; b < count; b++) {
    const float* const scales = z.scales + (b * all_groups + kFar / kGroupRows) * kGroupRows;
    wrong += memcmp(scales, a.scales + b * groups * kGroupRows, (size_t)(groups * kGroupRows * 4)) != 0;
  }

  const Pages near_out(rows * rows * 4), far_out(all * rows * 4);  // times the transposed of the last rows
  const DigitProduct product{near_out.as<float>(), a, a, nullptr, (int)rows, (int)rows, false, rows % 2 == 0};
  const DigitProduct far_product{far_out.as<float>(), z, a, nullptr, (int)all, (int)rows, false, rows % 2 == 0};
  const auto compare = [&] {
    wrong += memcmp(far_out.as<float>() + kFar * rows, product.out, (size_t)(rows * rows * 4)) != 0;
    memset(far_out.as<float>() + kFar * rows, 0xff, (size_t)(rows * rows * 4));
  };
  typedef SmallTile<IntegerUnit, kDigits> Small;
  launch_tile<Small>(nullptr, product);
  run_block((all - 1) / Small::kM, Small::kThreads, Small::kBytes, matmul_digits_tile<Small>, far_product);
  compare();
  typedef WgmmaTile<kDigits, 64> Narrow;
  run_block((all - 1) / Narrow::kM, Narrow::kThreads, Narrow::kBytes, matmul_digits_wgmma<Narrow>, far_product);
  compare();
  return wrong;
}

}  // namespace device
}  // namespace samebits

using namespace samebits::device;

extern "C" __attribute__((visibility("default"))) int samebits_far_rows(const float* x, int64_t rows, int64_t K,
                                                                        bool transposed, int digits) {
  return digits == 2 ? differing<2>(x, rows, K, transposed) : differing<1>(x, rows, K, transposed);
}

// What a grid of so many blocks is refused with, or an empty text.
extern "C" __attribute__((visibility("default"))) const char* samebits_grid_of(int64_t items, int64_t items_per_block) {
  static std::string message;
  message.clear();
  try {
    blocks_for(items, items_per_block);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

// Stages of a tile of wgmma with 64 columns.
extern "C" __attribute__((visibility("default"))) int samebits_narrow_stages(int digits) {
  return digits == 2 ? WgmmaTile<2, 64>::kStages : WgmmaTile<1, 64>::kStages;
}
