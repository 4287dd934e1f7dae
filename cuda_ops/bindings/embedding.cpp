#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;

void embedding_forward(const Tensor& out_, const Tensor& tokens, const Tensor& wte, const Tensor& wpe,
                       int64_t position) {
  check_dims(tokens, "tokens", 2);
  check_dims(wte, "wte", 2);
  const int64_t B = tokens.size(0), T = tokens.size(1), C = wte.size(1);
  check_shape(out_, "out", {B, T, C});
  TORCH_CHECK(wpe.dim() == 2 && wpe.size(1) == C && position >= 0 && position + T <= wpe.size(0),
              "wpe: expected at least [", position + T, ", ", C, "], got ", wpe.sizes());
  const Call call(out_);
  call(&Kernels::embedding_forward, call.out(out_, "out"), call.indices(tokens, "tokens", wte.size(0)),
       call.in(wte, "wte"), call.in(wpe, "wpe"), B, T, C, position);
}

void embedding_backward(const Tensor& dwte, const Tensor& dwpe, const Tensor& dout, const Tensor& tokens) {
  check_dims(dout, "dout", 3);
  const int64_t B = dout.size(0), T = dout.size(1), C = dout.size(2);
  check_shape(tokens, "tokens", {B, T});
  TORCH_CHECK(dwte.dim() == 2 && dwte.size(1) == C, "dwte: expected [V, ", C, "], got ", dwte.sizes());
  TORCH_CHECK(dwpe.dim() == 2 && dwpe.size(1) == C && dwpe.size(0) >= T, "dwpe: expected at least [", T, ", ", C,
              "], got ", dwpe.sizes());
  const Call call(dwte);
  call(&Kernels::embedding_backward, call.out(dwte, "dwte"), call.out(dwpe, "dwpe"), call.in(dout, "dout"),
       call.indices(tokens, "tokens", dwte.size(0)), B, T, C);
}

void embedding_add(const Tensor& out_, const Tensor& src, const Tensor& rows) {
  check_dims(out_, "out", 2);
  check_dims(rows, "rows", 1);
  check_shape(src, "src", {rows.size(0), out_.size(1)});
  const Call call(out_);
  call(&Kernels::embedding_add, call.out(out_, "out"), call.in(src, "src"),
       call.indices(rows, "rows", out_.size(0), true), src.size(0), src.size(1));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(samebits, m) {
  define(m, "embedding_forward(Tensor(a!) out, Tensor tokens, Tensor wte, Tensor wpe, int position) -> ()",
         &embedding_forward);
  define(m, "embedding_backward(Tensor(a!) dwte, Tensor(b!) dwpe, Tensor dout, Tensor tokens) -> ()",
         &embedding_backward);
  define(m, "embedding_add(Tensor(a!) out, Tensor src, Tensor rows) -> ()", &embedding_add);
}

}  // namespace samebits
