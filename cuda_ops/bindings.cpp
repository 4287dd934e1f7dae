// The ops as torch custom operators: every schema, and the checks between a tensor and a kernel's pointer. The only
// file that knows torch.
#include <torch/library.h>

#include <string>

#include "checks.h"
#include "cpu/dispatch.h"

#ifndef SAMEBITS_SOURCE_DIGEST
#error "built by cuda_ops/build.py, which passes the digest of sources and flags"
#endif

extern "C" __attribute__((visibility("default"))) const char* samebits_source_digest() {
  return SAMEBITS_SOURCE_DIGEST;
}

namespace samebits {
namespace {

using at::Tensor;
using std::optional;

const Kernels& run() {
  const Kernels* table = kernels();
  TORCH_CHECK(table, "SAMEBITS_ISA=", isa(),
              " cannot run on this CPU: allowed are baseline, v3 and v4 as far as it has them");
  return *table;
}

void matmul(const Tensor& out_, const Tensor& a, const Tensor& b, const optional<Tensor>& bias, c10::string_view layout,
            bool accumulate) {
  TORCH_CHECK(layout == "nt" || layout == "nn" || layout == "tn", "layout: expected nt, nn or tn, got ", layout);
  check_dims(a, "a", 2);
  check_dims(b, "b", 2);
  const int code = layout == "nt" ? 0 : layout == "nn" ? 1 : 2;
  const int64_t M = a.size(code == 2 ? 1 : 0), K = a.size(code == 2 ? 0 : 1);
  const int64_t N = b.size(code == 0 ? 0 : 1);
  TORCH_CHECK(b.size(code == 0 ? 1 : 0) == K, "b: expected K = ", K, " as in a ", a.sizes(), ", got shape ", b.sizes());
  check_shape(out_, "out", {M, N});
  if (bias) check_shape(*bias, "bias", {N});
  check_apart(out_, "out", a, "a");
  check_apart(out_, "out", b, "b");
  run().matmul(out(out_, "out"), in(a, "a"), in(b, "b"), bias ? in(*bias, "bias") : nullptr, M, N, K, code, accumulate);
}

void bias_backward(const Tensor& dbias, const Tensor& dout) {
  check_dims(dout, "dout", 3);
  check_shape(dbias, "dbias", {dout.size(2)});
  run().bias_backward(out(dbias, "dbias"), in(dout, "dout"), dout.size(0), dout.size(1), dout.size(2));
}

void embedding_forward(const Tensor& out_, const Tensor& tokens, const Tensor& wte, const Tensor& wpe,
                       int64_t position) {
  check_dims(tokens, "tokens", 2);
  check_dims(wte, "wte", 2);
  const int64_t B = tokens.size(0), T = tokens.size(1), C = wte.size(1);
  check_shape(out_, "out", {B, T, C});
  TORCH_CHECK(wpe.dim() == 2 && wpe.size(1) == C && position >= 0 && position + T <= wpe.size(0),
              "wpe: expected at least [", position + T, ", ", C, "], got ", wpe.sizes());
  run().embedding_forward(out(out_, "out"), indices(tokens, "tokens", wte.size(0)), in(wte, "wte"), in(wpe, "wpe"), B,
                          T, C, position);
}

void embedding_backward(const Tensor& dwte, const Tensor& dwpe, const Tensor& dout, const Tensor& tokens) {
  check_dims(dout, "dout", 3);
  const int64_t B = dout.size(0), T = dout.size(1), C = dout.size(2);
  check_shape(tokens, "tokens", {B, T});
  TORCH_CHECK(dwte.dim() == 2 && dwte.size(1) == C, "dwte: expected [V, ", C, "], got ", dwte.sizes());
  TORCH_CHECK(dwpe.dim() == 2 && dwpe.size(1) == C && dwpe.size(0) >= T, "dwpe: expected at least [", T, ", ", C,
              "], got ", dwpe.sizes());
  run().embedding_backward(out(dwte, "dwte"), out(dwpe, "dwpe"), in(dout, "dout"),
                           indices(tokens, "tokens", dwte.size(0)), B, T, C);
}

void embedding_add(const Tensor& out_, const Tensor& src, const Tensor& rows) {
  check_dims(out_, "out", 2);
  check_shape(rows, "rows", {src.size(0)});
  check_shape(src, "src", {rows.size(0), out_.size(1)});
  const int32_t* p = indices(rows, "rows", out_.size(0), -1);
  for (int64_t i = 1; i < rows.size(0); i++) {
    TORCH_CHECK(p[i] > p[i - 1] || p[i] == -1, "rows: expected ascending and distinct, or -1 from some place on, got ",
                p[i - 1], " then ", p[i], " at ", i);
  }
  run().embedding_add(out(out_, "out"), in(src, "src"), p, src.size(0), src.size(1));
}

void layernorm_forward(const Tensor& out_, const Tensor& mean, const Tensor& rstd, const Tensor& inp,
                       const Tensor& weight, const Tensor& bias, double eps) {
  check_dims(weight, "weight", 1);
  const int64_t C = weight.size(0);
  TORCH_CHECK(C > 0 && inp.dim() > 0 && inp.size(-1) == C, "inp: expected last dimension ", C, ", got ", inp.sizes());
  const int64_t N = inp.numel() / C;
  check_shape(out_, "out", inp.sizes());
  check_shape(bias, "bias", {C});
  TORCH_CHECK(mean.numel() == N && rstd.numel() == N, "mean, rstd: expected ", N, " elements, got ", mean.sizes(),
              " and ", rstd.sizes());
  run().layernorm_forward(out(out_, "out"), out(mean, "mean"), out(rstd, "rstd"), in(inp, "inp"), in(weight, "weight"),
                          in(bias, "bias"), N, C, (float)eps);
}

void layernorm_backward(const Tensor& dinp, const Tensor& dweight, const Tensor& dbias, const Tensor& dout,
                        const optional<Tensor>& dresidual, const Tensor& inp, const Tensor& weight, const Tensor& mean,
                        const Tensor& rstd) {
  check_dims(inp, "inp", 3);
  const int64_t B = inp.size(0), T = inp.size(1), C = inp.size(2);
  check_shape(dinp, "dinp", inp.sizes());
  check_shape(dout, "dout", inp.sizes());
  if (dresidual) check_shape(*dresidual, "dresidual", inp.sizes());
  check_shape(weight, "weight", {C});
  check_shape(dweight, "dweight", {C});
  check_shape(dbias, "dbias", {C});
  check_shape(mean, "mean", {B, T});
  check_shape(rstd, "rstd", {B, T});
  check_apart(dinp, "dinp", inp, "inp");
  run().layernorm_backward(out(dinp, "dinp"), out(dweight, "dweight"), out(dbias, "dbias"), in(dout, "dout"),
                           dresidual ? in(*dresidual, "dresidual") : nullptr, in(inp, "inp"), in(weight, "weight"),
                           in(mean, "mean"), in(rstd, "rstd"), B, T, C);
}

void gelu_forward(const Tensor& out_, const Tensor& inp) {
  check_shape(out_, "out", inp.sizes());
  run().gelu_forward(out(out_, "out"), in(inp, "inp"), inp.numel());
}

void gelu_backward(const Tensor& dinp, const Tensor& dout, const Tensor& inp) {
  check_shape(dinp, "dinp", inp.sizes());
  check_shape(dout, "dout", inp.sizes());
  run().gelu_backward(out(dinp, "dinp"), in(dout, "dout"), in(inp, "inp"), inp.numel());
}

void residual_forward(const Tensor& out_, const Tensor& a, const Tensor& b) {
  check_shape(out_, "out", a.sizes());
  check_shape(b, "b", a.sizes());
  run().residual_forward(out(out_, "out"), in(a, "a"), in(b, "b"), a.numel());
}

struct AttentionSizes {
  int64_t B, T, C;
};

AttentionSizes attention_sizes(const Tensor& qkv, const Tensor& out_, int64_t heads) {
  check_dims(qkv, "qkv", 3);
  const int64_t C = qkv.size(2) / 3;
  TORCH_CHECK(heads > 0 && C > 0 && qkv.size(2) == 3 * C && C % heads == 0,
              "qkv: expected [B, T, 3C] with C a multiple of heads ", heads, ", got ", qkv.sizes());
  check_shape(out_, "out", {qkv.size(0), qkv.size(1), C});
  return {qkv.size(0), qkv.size(1), C};
}

void attention_forward(const Tensor& out_, const Tensor& row_max, const Tensor& row_sum, const Tensor& qkv,
                       int64_t heads) {
  const auto [B, T, C] = attention_sizes(qkv, out_, heads);
  check_shape(row_max, "row_max", {B, heads, T});
  check_shape(row_sum, "row_sum", {B, heads, T});
  check_apart(out_, "out", qkv, "qkv");
  run().attention_forward(out(out_, "out"), out(row_max, "row_max"), out(row_sum, "row_sum"), in(qkv, "qkv"), B, T, C,
                          heads);
}

void attention_backward(const Tensor& dqkv, const Tensor& dout, const Tensor& out_, const Tensor& qkv,
                        const Tensor& row_max, const Tensor& row_sum, int64_t heads) {
  const auto [B, T, C] = attention_sizes(qkv, out_, heads);
  check_shape(dqkv, "dqkv", qkv.sizes());
  check_shape(dout, "dout", out_.sizes());
  check_shape(row_max, "row_max", {B, heads, T});
  check_shape(row_sum, "row_sum", {B, heads, T});
  check_apart(dqkv, "dqkv", qkv, "qkv");
  run().attention_backward(out(dqkv, "dqkv"), in(dout, "dout"), in(out_, "out"), in(qkv, "qkv"), in(row_max, "row_max"),
                           in(row_sum, "row_sum"), B, T, C, heads);
}

void attention_cached(const Tensor& out_, const Tensor& key_cache, const Tensor& value_cache, const Tensor& qkv,
                      int64_t heads, int64_t position) {
  const auto [B, T, C] = attention_sizes(qkv, out_, heads);
  check_dims(key_cache, "key_cache", 4);
  const int64_t capacity = key_cache.size(2);
  check_shape(key_cache, "key_cache", {B, heads, capacity, C / heads});
  check_shape(value_cache, "value_cache", key_cache.sizes());
  TORCH_CHECK(position >= 0 && position + T <= capacity, "position: ", position, " + ", T,
              " tokens exceed the cache's ", capacity);
  run().attention_cached(out(out_, "out"), out(key_cache, "key_cache"), out(value_cache, "value_cache"), in(qkv, "qkv"),
                         B, T, C, heads, position, capacity);
}

void check_logits(const Tensor& losses, const Tensor& logits, const Tensor& targets, int64_t vocab_size) {
  check_dims(logits, "logits", 2);
  check_shape(losses, "losses", {logits.size(0)});
  check_shape(targets, "targets", {logits.size(0)});
  TORCH_CHECK(vocab_size > 0 && vocab_size <= logits.size(1), "vocab_size: expected 1 to ", logits.size(1), ", got ",
              vocab_size);
}

void cross_entropy_forward(const Tensor& losses, const Tensor& logits, const Tensor& targets, int64_t vocab_size) {
  check_logits(losses, logits, targets, vocab_size);
  run().cross_entropy_forward(out(losses, "losses"), in(logits, "logits"), indices(targets, "targets", vocab_size),
                              logits.size(0), vocab_size, logits.size(1));
}

void cross_entropy_fused(const Tensor& losses, const Tensor& logits, const Tensor& targets, double dloss,
                         int64_t vocab_size) {
  check_logits(losses, logits, targets, vocab_size);
  run().cross_entropy_fused(out(losses, "losses"), out(logits, "logits"), indices(targets, "targets", vocab_size),
                            (float)dloss, logits.size(0), vocab_size, logits.size(1));
}

void chain_sum(const Tensor& total, const Tensor& losses) {
  TORCH_CHECK(total.numel() == 1, "total: expected 1 element, got ", total.sizes());
  run().chain_sum(out(total, "total"), in(losses, "losses"), losses.numel());
}

void adamw(const Tensor& param, const Tensor& m, const Tensor& v, const Tensor& grad, const Tensor& scalars,
           double beta1, double beta2, double eps, double weight_decay) {
  check_shape(m, "m", param.sizes());
  check_shape(v, "v", param.sizes());
  check_shape(grad, "grad", param.sizes());
  check_shape(scalars, "scalars", {4});
  run().adamw(out(param, "param"), out(m, "m"), out(v, "v"), in(grad, "grad"), in(scalars, "scalars"), param.numel(),
              (float)beta1, (float)beta2, (float)eps, (float)weight_decay);
}

void clip(const Tensor& report, const Tensor& scalars, const Tensor& totals, double loss_scale, double clip_norm) {
  check_shape(report, "report", {2});
  check_shape(scalars, "scalars", {4});
  check_shape(totals, "totals", {2});
  run().clip(out(report, "report"), out(scalars, "scalars"), in(totals, "totals"), (float)loss_scale, (float)clip_norm);
}

void norm_partials(const Tensor& partials, const Tensor& x, int64_t chunk) {
  TORCH_CHECK(chunk > 0, "chunk: expected a positive size, got ", chunk);
  check_shape(partials, "partials", {(x.numel() + chunk - 1) / chunk});
  run().norm_partials(out(partials, "partials"), in(x, "x"), x.numel(), chunk);
}

void tree_sum(const Tensor& out_, const Tensor& x) {
  TORCH_CHECK(out_.numel() == 1, "out: expected 1 element, got ", out_.sizes());
  run().tree_sum(out(out_, "out"), in(x, "x"), x.numel());
}

// fp32 or int32: any 32-bit words.
void fingerprint(const Tensor& out_, const Tensor& x, int64_t offset) {
  check_dense(x, "x", x.scalar_type() == at::kInt ? at::kInt : at::kFloat);
  check_dense(out_, "out", at::kLong);
  TORCH_CHECK(out_.numel() == 1, "out: expected 1 element, got ", out_.sizes());
  run().fingerprint((uint64_t*)out_.mutable_data_ptr(), (const uint32_t*)x.const_data_ptr(), x.numel(), offset);
}

int64_t first_nonfinite(const Tensor& x) {
  int64_t result = -1;
  run().first_nonfinite(&result, in(x, "x"), x.numel());
  return result;
}

void unary(const Tensor& out_, const Tensor& inp, int64_t function) {
  check_shape(out_, "out", inp.sizes());
  TORCH_CHECK(function >= 0 && function <= 6, "function: expected 0 to 6, got ", function);
  run().unary(out(out_, "out"), in(inp, "inp"), inp.numel(), (int)function);
}

void fill_normal(const Tensor& out_, int64_t seed, int64_t stream, int64_t offset, double mean, double std) {
  run().fill_normal(out(out_, "out"), out_.numel(), (uint64_t)seed, (uint32_t)stream, (uint64_t)offset, (float)mean,
                    (float)std);
}

void fill_uniform(const Tensor& out_, int64_t seed, int64_t stream, int64_t offset) {
  run().fill_uniform(out(out_, "out"), out_.numel(), (uint64_t)seed, (uint32_t)stream, (uint64_t)offset);
}

void sample(const Tensor& tokens, const Tensor& logits, const Tensor& uniforms, int64_t vocab_size, double temperature,
            int64_t top_k) {
  check_dims(logits, "logits", 2);
  check_dense(tokens, "tokens", at::kInt);
  check_shape(tokens, "tokens", {logits.size(0)});
  check_shape(uniforms, "uniforms", {logits.size(0)});
  TORCH_CHECK(vocab_size > 0 && vocab_size <= logits.size(1), "vocab_size: expected 1 to ", logits.size(1), ", got ",
              vocab_size);
  run().sample(tokens.mutable_data_ptr<int32_t>(), in(logits, "logits"), in(uniforms, "uniforms"), logits.size(0),
               vocab_size, logits.size(1), (float)temperature, top_k);
}

void set_threads_(int64_t count) {
  TORCH_CHECK(count > 0, "threads: expected at least 1, got ", count);
  set_threads((int)count);
}

std::string isa_() { return isa(); }

}  // namespace

TORCH_LIBRARY(samebits, m) {
  m.def("matmul(Tensor(a!) out, Tensor a, Tensor b, Tensor? bias, str layout, bool accumulate) -> ()");
  m.def("bias_backward(Tensor(a!) dbias, Tensor dout) -> ()");
  m.def("embedding_forward(Tensor(a!) out, Tensor tokens, Tensor wte, Tensor wpe, int position) -> ()");
  m.def("embedding_backward(Tensor(a!) dwte, Tensor(b!) dwpe, Tensor dout, Tensor tokens) -> ()");
  m.def("embedding_add(Tensor(a!) out, Tensor src, Tensor rows) -> ()");
  m.def(
      "layernorm_forward(Tensor(a!) out, Tensor(b!) mean, Tensor(c!) rstd, Tensor inp, Tensor weight, Tensor bias, "
      "float eps) -> ()");
  m.def(
      "layernorm_backward(Tensor(a!) dinp, Tensor(b!) dweight, Tensor(c!) dbias, Tensor dout, Tensor? dresidual, "
      "Tensor inp, "
      "Tensor weight, Tensor mean, Tensor rstd) -> ()");
  m.def("gelu_forward(Tensor(a!) out, Tensor inp) -> ()");
  m.def("gelu_backward(Tensor(a!) dinp, Tensor dout, Tensor inp) -> ()");
  m.def("residual_forward(Tensor(a!) out, Tensor a, Tensor b) -> ()");
  m.def("attention_forward(Tensor(a!) out, Tensor(b!) row_max, Tensor(c!) row_sum, Tensor qkv, int heads) -> ()");
  m.def(
      "attention_backward(Tensor(a!) dqkv, Tensor dout, Tensor out, Tensor qkv, Tensor row_max, Tensor row_sum, int "
      "heads) -> ()");
  m.def(
      "attention_cached(Tensor(a!) out, Tensor(b!) key_cache, Tensor(c!) value_cache, Tensor qkv, int heads, int "
      "position) -> ()");
  m.def("cross_entropy_forward(Tensor(a!) losses, Tensor logits, Tensor targets, int vocab_size) -> ()");
  m.def("cross_entropy_fused(Tensor(a!) losses, Tensor(b!) logits, Tensor targets, float dloss, int vocab_size) -> ()");
  m.def("chain_sum(Tensor(a!) total, Tensor losses) -> ()");
  m.def(
      "adamw(Tensor(a!) param, Tensor(b!) m, Tensor(c!) v, Tensor grad, Tensor scalars, float beta1, float beta2, "
      "float eps, float weight_decay) -> ()");
  m.def("clip(Tensor(a!) report, Tensor(b!) scalars, Tensor totals, float loss_scale, float clip_norm) -> ()");
  m.def("norm_partials(Tensor(a!) partials, Tensor x, int chunk) -> ()");
  m.def("tree_sum(Tensor(a!) out, Tensor x) -> ()");
  m.def("fingerprint(Tensor(a!) out, Tensor x, int offset) -> ()");
  m.def("first_nonfinite(Tensor x) -> int");
  m.def("unary(Tensor(a!) out, Tensor inp, int function) -> ()");
  m.def("fill_normal(Tensor(a!) out, int seed, int stream, int offset, float mean, float std) -> ()");
  m.def("fill_uniform(Tensor(a!) out, int seed, int stream, int offset) -> ()");
  m.def(
      "sample(Tensor(a!) tokens, Tensor logits, Tensor uniforms, int vocab_size, float temperature, int top_k) -> ()");
  m.def("set_threads(int count) -> ()", &set_threads_);
  m.def("isa() -> str", &isa_);
}

#define IMPL(name) m.impl(#name, &name)
TORCH_LIBRARY_IMPL(samebits, CPU, m) {
  IMPL(matmul);
  IMPL(bias_backward);
  IMPL(embedding_forward);
  IMPL(embedding_backward);
  IMPL(embedding_add);
  IMPL(layernorm_forward);
  IMPL(layernorm_backward);
  IMPL(gelu_forward);
  IMPL(gelu_backward);
  IMPL(residual_forward);
  IMPL(attention_forward);
  IMPL(attention_backward);
  IMPL(attention_cached);
  IMPL(cross_entropy_forward);
  IMPL(cross_entropy_fused);
  IMPL(chain_sum);
  IMPL(adamw);
  IMPL(clip);
  IMPL(norm_partials);
  IMPL(tree_sum);
  IMPL(fingerprint);
  IMPL(first_nonfinite);
  IMPL(unary);
  IMPL(fill_normal);
  IMPL(fill_uniform);
  IMPL(sample);
}

}  // namespace samebits
