// What the bindings of products in digits share: the tiers, the largest sizes, and those of operands that are kept.
#pragma once

#include "checks.h"

namespace samebits {

// Digits of a value in a tier of bits.numerics.
inline int digits_of(c10::string_view tier) {
  TORCH_CHECK(tier == "int8x3" || tier == "int8x1", "tier: expected int8x3 or int8x1, got ", tier);
  return tier == "int8x3" ? 2 : 1;
}

// Of rows, K, tokens, channels or heads. The CUDA kernels count them in 32 bits, and up to a tile or a sequence beyond.
constexpr int64_t kMostInDigits = 1 << 30;

inline void check_counts(const at::Tensor& t, const char* name) {
  for (const int64_t size : t.sizes()) {
    TORCH_CHECK(size <= kMostInDigits, name, ": expected sizes of at most ", kMostInDigits, " in digits, got shape ",
                t.sizes());
  }
}

// Sequences times heads are counted too.
inline void check_heads(const at::Tensor& qkv, int64_t heads) {
  check_dims(qkv, "qkv", 3);
  check_counts(qkv, "qkv");
  TORCH_CHECK(heads <= 0 || qkv.size(0) <= kMostInDigits / heads, "heads: ", heads, " in each of ", qkv.size(0),
              " sequences, allowed in digits are ", kMostInDigits, " together");
}

// Bytes of a right operand: rows rounded up to 16, blocks of 128, a scale for each row of a block; in an order of each
// backend's own.
inline int64_t operand_bytes(int64_t rows, int64_t K, int digits) {
  return (rows + 15) / 16 * ((K + 127) / 128) * (digits * 2048 + 64);
}

inline uint8_t* operand(const Call& call, const at::Tensor& t, const char* name, int64_t rows, int64_t K, int digits) {
  check_shape(t, name, {operand_bytes(rows, K, digits)});
  call.check_dense(t, name, at::kByte);
  uint8_t* const bytes = (uint8_t*)t.const_data_ptr<uint8_t>();
  TORCH_CHECK((uintptr_t)bytes % 16 == 0, name, ": expected to begin at a multiple of 16 bytes, as a GPU copies them");
  return bytes;
}

}  // namespace samebits
