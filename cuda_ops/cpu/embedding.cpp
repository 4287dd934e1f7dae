// Token and position embeddings.
//
// order: every gradient row is a chain in token order. Threads share out channels, so each walks all tokens.
#include "kernels.h"
#include "parallel.h"

#include "../numerics/float.h"

namespace samebits {
namespace SAMEBITS_ISA {

void embedding_forward(float* out, const int32_t* tokens, const float* wte, const float* wpe, int64_t B, int64_t T,
                       int64_t C, int64_t position) {
  parallel_for(B * T, C, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float* token = wte + (int64_t)tokens[i] * C;
      const float* place = wpe + (position + i % T) * C;
      for (int64_t c = 0; c < C; c++) out[i * C + c] = add(token[c], place[c]);
    }
  });
}

void embedding_backward(float* dwte, float* dwpe, const float* dout, const int32_t* tokens, int64_t B, int64_t T,
                        int64_t C) {
  parallel_for(C, 2 * B * T, [=](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < B * T; i++) {
      float* token = dwte + (int64_t)tokens[i] * C;
      float* place = dwpe + (i % T) * C;
      const float* row = dout + i * C;
      for (int64_t c = begin; c < end; c++) {
        token[c] = add(token[c], row[c]);
        place[c] = add(place[c], row[c]);
      }
    }
  });
}

void embedding_add(float* out, const float* src, const int32_t* rows, int64_t n, int64_t C) {
  parallel_for(n, C, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      if (rows[i] < 0) continue;
      float* row = out + (int64_t)rows[i] * C;
      for (int64_t c = 0; c < C; c++) row[c] = add(row[c], src[i * C + c]);
    }
  });
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
