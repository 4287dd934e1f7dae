// The ops between torch and the kernels: each checks its tensors and calls the kernel of their device.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <string>

#include "checks.h"

namespace samebits {
namespace {

using at::Tensor;
using std::optional;

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
  const Call call(out_);
  call->matmul(call.out(out_, "out"), call.in(a, "a"), call.in(b, "b"), bias ? call.in(*bias, "bias") : nullptr, M, N,
               K, code, accumulate);
}

void bias_backward(const Tensor& dbias, const Tensor& dout) {
  check_dims(dout, "dout", 3);
  check_shape(dbias, "dbias", {dout.size(2)});
  const Call call(dbias);
  call->bias_backward(call.out(dbias, "dbias"), call.in(dout, "dout"), dout.size(0), dout.size(1), dout.size(2));
}

void embedding_forward(const Tensor& out_, const Tensor& tokens, const Tensor& wte, const Tensor& wpe,
                       int64_t position) {
  check_dims(tokens, "tokens", 2);
  check_dims(wte, "wte", 2);
  const int64_t B = tokens.size(0), T = tokens.size(1), C = wte.size(1);
  check_shape(out_, "out", {B, T, C});
  TORCH_CHECK(wpe.dim() == 2 && wpe.size(1) == C && position >= 0 && position + T <= wpe.size(0),
              "wpe: expected at least [", position + T, ", ", C, "], got ", wpe.sizes());
  const Call call(out_);
  call->embedding_forward(call.out(out_, "out"), call.indices(tokens, "tokens", wte.size(0)), call.in(wte, "wte"),
                          call.in(wpe, "wpe"), B, T, C, position);
}

void embedding_backward(const Tensor& dwte, const Tensor& dwpe, const Tensor& dout, const Tensor& tokens) {
  check_dims(dout, "dout", 3);
  const int64_t B = dout.size(0), T = dout.size(1), C = dout.size(2);
  check_shape(tokens, "tokens", {B, T});
  TORCH_CHECK(dwte.dim() == 2 && dwte.size(1) == C, "dwte: expected [V, ", C, "], got ", dwte.sizes());
  TORCH_CHECK(dwpe.dim() == 2 && dwpe.size(1) == C && dwpe.size(0) >= T, "dwpe: expected at least [", T, ", ", C,
              "], got ", dwpe.sizes());
  const Call call(dwte);
  call->embedding_backward(call.out(dwte, "dwte"), call.out(dwpe, "dwpe"), call.in(dout, "dout"),
                           call.indices(tokens, "tokens", dwte.size(0)), B, T, C);
}

void embedding_add(const Tensor& out_, const Tensor& src, const Tensor& rows) {
  check_dims(out_, "out", 2);
  check_dims(rows, "rows", 1);
  check_shape(src, "src", {rows.size(0), out_.size(1)});
  const Call call(out_);
  call->embedding_add(call.out(out_, "out"), call.in(src, "src"), call.indices(rows, "rows", out_.size(0), true),
                      src.size(0), src.size(1));
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
  const Call call(out_);
  call->layernorm_forward(call.out(out_, "out"), call.out(mean, "mean"), call.out(rstd, "rstd"), call.in(inp, "inp"),
                          call.in(weight, "weight"), call.in(bias, "bias"), N, C, (float)eps);
}

void layernorm_backward(const Tensor& dinp, const Tensor& dweight, const Tensor& dbias, const Tensor& dout,
                        const optional<Tensor>& dresidual, const Tensor& inp, const Tensor& weight, const Tensor& mean,
                        const Tensor& rstd) {
  check_dims(inp, "inp", 3);
  const int64_t B = inp.size(0), T = inp.size(1), C = inp.size(2);
  check_shape(dinp, "dinp", inp.sizes());
  check_shape(dout, "dout", inp.sizes());
  check_same_or_apart(dinp, "dinp", dout, "dout");
  if (dresidual) {
    check_shape(*dresidual, "dresidual", inp.sizes());
    check_same_or_apart(dinp, "dinp", *dresidual, "dresidual");
  }
  check_shape(weight, "weight", {C});
  check_shape(dweight, "dweight", {C});
  check_shape(dbias, "dbias", {C});
  check_shape(mean, "mean", {B, T});
  check_shape(rstd, "rstd", {B, T});
  check_apart(dinp, "dinp", inp, "inp");
  const Call call(dinp);
  call->layernorm_backward(call.out(dinp, "dinp"), call.out(dweight, "dweight"), call.out(dbias, "dbias"),
                           call.in(dout, "dout"), dresidual ? call.in(*dresidual, "dresidual") : nullptr,
                           call.in(inp, "inp"), call.in(weight, "weight"), call.in(mean, "mean"), call.in(rstd, "rstd"),
                           B, T, C);
}

void gelu_forward(const Tensor& out_, const Tensor& inp) {
  check_shape(out_, "out", inp.sizes());
  check_same_or_apart(out_, "out", inp, "inp");
  const Call call(out_);
  call->gelu_forward(call.out(out_, "out"), call.in(inp, "inp"), inp.numel());
}

void gelu_backward(const Tensor& dinp, const Tensor& dout, const Tensor& inp) {
  check_shape(dinp, "dinp", inp.sizes());
  check_shape(dout, "dout", inp.sizes());
  check_same_or_apart(dinp, "dinp", dout, "dout");
  check_same_or_apart(dinp, "dinp", inp, "inp");
  const Call call(dinp);
  call->gelu_backward(call.out(dinp, "dinp"), call.in(dout, "dout"), call.in(inp, "inp"), inp.numel());
}

void residual_forward(const Tensor& out_, const Tensor& a, const Tensor& b) {
  check_shape(out_, "out", a.sizes());
  check_shape(b, "b", a.sizes());
  check_same_or_apart(out_, "out", a, "a");
  check_same_or_apart(out_, "out", b, "b");
  const Call call(out_);
  call->residual_forward(call.out(out_, "out"), call.in(a, "a"), call.in(b, "b"), a.numel());
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
  const Call call(out_);
  call->attention_forward(call.out(out_, "out"), call.out(row_max, "row_max"), call.out(row_sum, "row_sum"),
                          call.in(qkv, "qkv"), B, T, C, heads);
}

void attention_backward(const Tensor& dqkv, const Tensor& dout, const Tensor& out_, const Tensor& qkv,
                        const Tensor& row_max, const Tensor& row_sum, int64_t heads) {
  const auto [B, T, C] = attention_sizes(qkv, out_, heads);
  check_shape(dqkv, "dqkv", qkv.sizes());
  check_shape(dout, "dout", out_.sizes());
  check_shape(row_max, "row_max", {B, heads, T});
  check_shape(row_sum, "row_sum", {B, heads, T});
  check_apart(dqkv, "dqkv", qkv, "qkv");
  const Call call(dqkv);
  call->attention_backward(call.out(dqkv, "dqkv"), call.in(dout, "dout"), call.in(out_, "out"), call.in(qkv, "qkv"),
                           call.in(row_max, "row_max"), call.in(row_sum, "row_sum"), B, T, C, heads);
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
  const Call call(out_);
  call->attention_cached(call.out(out_, "out"), call.out(key_cache, "key_cache"), call.out(value_cache, "value_cache"),
                         call.in(qkv, "qkv"), B, T, C, heads, position, capacity);
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
  const Call call(losses);
  call->cross_entropy_forward(call.out(losses, "losses"), call.in(logits, "logits"),
                              call.indices(targets, "targets", vocab_size), logits.size(0), vocab_size, logits.size(1));
}

void cross_entropy_fused(const Tensor& losses, const Tensor& logits, const Tensor& targets, double dloss,
                         int64_t vocab_size) {
  check_logits(losses, logits, targets, vocab_size);
  const Call call(losses);
  call->cross_entropy_fused(call.out(losses, "losses"), call.out(logits, "logits"),
                            call.indices(targets, "targets", vocab_size), (float)dloss, logits.size(0), vocab_size,
                            logits.size(1));
}

void chain_sum(const Tensor& total, const Tensor& losses) {
  TORCH_CHECK(total.numel() == 1, "total: expected 1 element, got ", total.sizes());
  const Call call(total);
  call->chain_sum(call.out(total, "total"), call.in(losses, "losses"), losses.numel());
}

void adamw(const Tensor& param, const Tensor& m, const Tensor& v, const Tensor& grad, const Tensor& scalars,
           double beta1, double beta2, double eps, double weight_decay) {
  check_shape(m, "m", param.sizes());
  check_shape(v, "v", param.sizes());
  check_shape(grad, "grad", param.sizes());
  check_shape(scalars, "scalars", {4});
  const Call call(param);
  call->adamw(call.out(param, "param"), call.out(m, "m"), call.out(v, "v"), call.in(grad, "grad"),
              call.in(scalars, "scalars"), param.numel(), (float)beta1, (float)beta2, (float)eps, (float)weight_decay);
}

void clip(const Tensor& report, const Tensor& scalars, const Tensor& totals, double loss_scale, double clip_norm) {
  check_shape(report, "report", {2});
  check_shape(scalars, "scalars", {4});
  check_shape(totals, "totals", {2});
  const Call call(report);
  call->clip(call.out(report, "report"), call.out(scalars, "scalars"), call.in(totals, "totals"), (float)loss_scale,
             (float)clip_norm);
}

void norm_partials(const Tensor& partials, const Tensor& x, int64_t chunk) {
  TORCH_CHECK(chunk > 0, "chunk: expected a positive size, got ", chunk);
  check_shape(partials, "partials", {(x.numel() + chunk - 1) / chunk});
  const Call call(partials);
  call->norm_partials(call.out(partials, "partials"), call.in(x, "x"), x.numel(), chunk);
}

void tree_sum(const Tensor& out_, const Tensor& x) {
  TORCH_CHECK(out_.numel() == 1, "out: expected 1 element, got ", out_.sizes());
  const Call call(out_);
  call->tree_sum(call.out(out_, "out"), call.in(x, "x"), x.numel());
}

// x is fp32 or int32: any 32-bit words. out is an int64 of one element on the device of x, so that nothing waits.
void fingerprint_into(const Tensor& out_, const Tensor& x, int64_t offset) {
  TORCH_CHECK(out_.numel() == 1, "out: expected 1 element, got ", out_.sizes());
  const Call call(x);
  call.check_dense(x, "x", x.scalar_type() == at::kInt ? at::kInt : at::kFloat);
  call.check_dense(out_, "out", at::kLong);
  call->fingerprint((uint64_t*)out_.mutable_data_ptr(), (const uint32_t*)x.const_data_ptr(), x.numel(), offset);
}

void first_nonfinite_into(const Tensor& out_, const Tensor& x) {
  TORCH_CHECK(out_.numel() == 1, "out: expected 1 element, got ", out_.sizes());
  const Call call(x);
  call.check_dense(out_, "out", at::kLong);
  call->first_nonfinite(out_.mutable_data_ptr<int64_t>(), call.in(x, "x"), x.numel());
}

int64_t fingerprint(const Tensor& x, int64_t offset) {
  const Tensor result = at::empty({1}, x.options().dtype(at::kLong));
  fingerprint_into(result, x, offset);
  return result.item<int64_t>();
}

int64_t first_nonfinite(const Tensor& x) {
  const Tensor result = at::empty({1}, x.options().dtype(at::kLong));
  first_nonfinite_into(result, x);
  return result.item<int64_t>();
}

void unary(const Tensor& out_, const Tensor& inp, int64_t function) {
  check_shape(out_, "out", inp.sizes());
  TORCH_CHECK(function >= 0 && function <= 6, "function: expected 0 to 6, got ", function);
  const Call call(out_);
  call->unary(call.out(out_, "out"), call.in(inp, "inp"), inp.numel(), (int)function);
}

void fill_normal(const Tensor& out_, int64_t seed, int64_t stream, int64_t offset, double mean, double std) {
  const Call call(out_);
  call->fill_normal(call.out(out_, "out"), out_.numel(), (uint64_t)seed, (uint32_t)stream, (uint64_t)offset,
                    (float)mean, (float)std);
}

void fill_uniform(const Tensor& out_, int64_t seed, int64_t stream, int64_t offset) {
  const Call call(out_);
  call->fill_uniform(call.out(out_, "out"), out_.numel(), (uint64_t)seed, (uint32_t)stream, (uint64_t)offset);
}

void sample(const Tensor& tokens, const Tensor& logits, const Tensor& uniforms, int64_t vocab_size, double temperature,
            int64_t top_k) {
  check_dims(logits, "logits", 2);
  check_shape(tokens, "tokens", {logits.size(0)});
  check_shape(uniforms, "uniforms", {logits.size(0)});
  TORCH_CHECK(vocab_size > 0 && vocab_size <= logits.size(1), "vocab_size: expected 1 to ", logits.size(1), ", got ",
              vocab_size);
  const Call call(tokens);
  call.check_dense(tokens, "tokens", at::kInt);
  call->sample(tokens.mutable_data_ptr<int32_t>(), call.in(logits, "logits"), call.in(uniforms, "uniforms"),
               logits.size(0), vocab_size, logits.size(1), (float)temperature, top_k);
}

// One body for both devices: what differs is the table of kernels that Call picks.
void implement(torch::Library& m) {
#define IMPL(name) m.impl(#name, &name)
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
  IMPL(fingerprint_into);
  IMPL(first_nonfinite);
  IMPL(first_nonfinite_into);
  IMPL(unary);
  IMPL(fill_normal);
  IMPL(fill_uniform);
  IMPL(sample);
#undef IMPL
}

}  // namespace

TORCH_LIBRARY_IMPL(samebits, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(samebits, CUDA, m) { implement(m); }

}  // namespace samebits
