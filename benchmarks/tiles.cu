// The products of cuda_ops/kernels/matmul.cu with tiles that it has and tiles that it could have, for
// benchmarks/tiles.py.
#include "../cuda_ops/kernels/matmul.cu"

namespace samebits {
namespace device {

template <class T>
static void launch(Stream stream, const Problem& p, int layout) {
  if (layout == kNT) {
    launch_tile<kNT, T, true>(stream, p);
  } else if (layout == kNN) {
    launch_tile<kNN, T, true>(stream, p);
  } else {
    launch_tile<kTN, T, true>(stream, p);
  }
}

// clang-format off
#define ALL_TILES(_)                    \
  _(Large)                           \
  _(Square)                          \
  _(Wide)                            \
  _(Small)                           \
  _(Tile<128, 64, 16, 8, 8, 4, 3>)   \
  _(Tile<128, 64, 8, 8, 8, 4, 4>)    \
  _(Tile<64, 64, 16, 8, 8, 4, 6>)    \
  _(Tile<128, 128, 8, 8, 8, 4, 2>)   \
  _(Tile<128, 128, 16, 8, 16, 8, 2>) \
  _(Tile<256, 128, 8, 8, 16, 8, 1>)
// clang-format on
#define NAME_OF(...) #__VA_ARGS__,
#define LAUNCHER_OF(...) launch<__VA_ARGS__>,

static const char* const kNames[] = {ALL_TILES(NAME_OF)};
static void (*const kLaunchers[])(Stream, const Problem&, int) = {ALL_TILES(LAUNCHER_OF)};

}  // namespace device
}  // namespace samebits

// The name of tile `tile`, null beyond the last.
extern "C" const char* tile_name(int tile) {
  using namespace samebits::device;
  return tile >= 0 && tile < (int)(sizeof(kNames) / sizeof(kNames[0])) ? kNames[tile] : nullptr;
}

// Which of them matmul picks: the first four are in its own order.
extern "C" int tile_picked(long long M, long long N, int layout) {
  return samebits::device::matmul_tile_for(M, N, layout);
}

// 0, or 1 if it cannot be launched. Rows are 16-byte aligned.
extern "C" int tile_launch(int tile, float* out, const float* a, const float* b, long long M, long long N, long long K,
                           int layout, int accumulate, void* stream) {
  using namespace samebits::device;
  try {
    kLaunchers[tile](static_cast<samebits::Stream>(stream), Problem{out, a, b, nullptr, M, N, K, accumulate != 0, true},
                     layout);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
