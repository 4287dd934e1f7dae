// The products of cuda_ops/kernels/matmul_digits.cu with each of its tiles, cutting and multiplying apart, for
// benchmarks/digit_tiles.py.
#include "../cuda_ops/kernels/matmul_digits.cu"

namespace samebits {
namespace device {

// Scratch belongs to whoever links the launchers; nothing here asks for it.
Scratch::Scratch(Stream, size_t) : data_(nullptr) {}
Scratch::~Scratch() {}

typedef void (*Launcher)(Stream, const DigitProduct&);
struct Entry {
  const char* name;
  int digits;
  Launcher run;
};

#define BOTH(name, ...)                            \
  {name, 2,                                        \
   [](Stream s, const DigitProduct& p) {           \
     constexpr int kDigits = 2;                    \
     __VA_ARGS__(s, p);                            \
   }},                                             \
  {                                                \
    name, 1, [](Stream s, const DigitProduct& p) { \
      constexpr int kDigits = 1;                   \
      __VA_ARGS__(s, p);                           \
    }                                              \
  }
static const Entry kEntries[] = {
    BOTH("mma 128", launch_tile<LargeTile<IntegerUnit, kDigits>>),
    BOTH("mma 64", launch_tile<SmallTile<IntegerUnit, kDigits>>),
    BOTH("bf16 128", launch_tile<LargeTile<Bf16Unit, kDigits>>),
    BOTH("wgmma 128", launch_wgmma<WgmmaTile<kDigits, 128>>),
    BOTH("wgmma 64", launch_wgmma<WgmmaTile<kDigits, 64>>),
    {"wgmma 192", 1, launch_wgmma<WgmmaTile<1, 192>>},
};

}  // namespace device
}  // namespace samebits

using namespace samebits::device;

// The name and digits of tile `tile`, null beyond the last.
extern "C" const char* tile_name(int tile) {
  return tile >= 0 && tile < (int)(sizeof(kEntries) / sizeof(kEntries[0])) ? kEntries[tile].name : nullptr;
}
extern "C" int tile_digits(int tile) { return kEntries[tile].digits; }

extern "C" long long cut_bytes(long long rows, long long K, long long sequence, int digits) {
  return operand_bytes(rows, Blocks(K, sequence).count(), digits);
}

// 0, or 1 if it cannot be launched: the rows of x[rows, K], or transposed of x[K, rows], cut into out.
extern "C" int cut_launch(int digits, void* out, const float* x, long long rows, long long K, long long sequence,
                          int transposed, void* stream) {
  const Blocks blocks(K, sequence);
  try {
    const auto run = digits == 2 ? cut<2> : cut<1>;
    run((samebits::Stream)stream, operand_in(out, rows, blocks.count(), digits), x, rows, blocks, transposed != 0);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}

// The same: out[M, N] of what was cut.
extern "C" int tile_launch(int tile, float* out, const void* a, const void* b, long long M, long long N, long long K,
                           long long sequence, void* stream) {
  const int64_t count = Blocks(K, sequence).count();
  const int digits = kEntries[tile].digits;
  const DigitProduct p{
      out,       operand_in(a, M, count, digits), operand_in(b, N, count, digits), nullptr, (int)M, (int)N, false,
      N % 2 == 0};
  try {
    kEntries[tile].run((samebits::Stream)stream, p);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
