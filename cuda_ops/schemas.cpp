// Every op as a torch custom operator: its schema, and what is no op of tensors. Bodies: bindings.cpp.
#include <torch/library.h>

#include <string>

#include "backend.h"
#include "cpu/dispatch.h"

#ifndef SAMEBITS_SOURCE_DIGEST
#error "built by cuda_ops/build.py, which passes the digest of sources and flags"
#endif

extern "C" __attribute__((visibility("default"))) const char* samebits_source_digest() {
  return SAMEBITS_SOURCE_DIGEST;
}

namespace samebits {
namespace {

const DeviceBackend* registered = nullptr;

void set_threads_(int64_t count) {
  TORCH_CHECK(count > 0, "threads: expected at least 1, got ", count);
  set_threads((int)count);
}

std::string isa_() { return isa(); }
std::string device_archs_() { return registered ? registered->archs : ""; }

}  // namespace

const DeviceBackend* device_backend() { return registered; }
void register_device_backend(const DeviceBackend* backend) { registered = backend; }

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
  m.def("fingerprint(Tensor x, int offset) -> int");
  m.def("fingerprint_into(Tensor(a!) out, Tensor x, int offset) -> ()");
  m.def("first_nonfinite(Tensor x) -> int");
  m.def("first_nonfinite_into(Tensor(a!) out, Tensor x) -> ()");
  m.def("unary(Tensor(a!) out, Tensor inp, int function) -> ()");
  m.def("fill_normal(Tensor(a!) out, int seed, int stream, int offset, float mean, float std) -> ()");
  m.def("fill_uniform(Tensor(a!) out, int seed, int stream, int offset) -> ()");
  m.def(
      "sample(Tensor(a!) tokens, Tensor logits, Tensor uniforms, int vocab_size, float temperature, int top_k) -> ()");
  m.def("set_threads(int count) -> ()", &set_threads_);
  m.def("isa() -> str", &isa_);
  m.def("device_archs() -> str", &device_archs_);
}

}  // namespace samebits
