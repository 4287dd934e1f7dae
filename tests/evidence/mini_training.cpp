// A whole training run of a tiny GPT without torch or Python: the kernels, called in the order of
// pipeline/models/gpt.py and pipeline/training/trainer.py. test_matrix.py builds it for each compiler, level and
// architecture; every build must print the lines that the trainer writes to chain.tsv for the same recipe: step, loss,
// lr, norm (bits in hex) and fingerprint.
//
//   mini_training windows.bin threads micro_batch seed layers heads channels context vocab padded sequences lanes steps
//                 warmup peak final_fraction
//
// windows.bin: int32 [steps, sequences, context + 1], the tokens of every sample in order. Optimizer and initialisation
// are the recipe's defaults, the schedule is the cosine.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <string>
#include <vector>

#include "../../cuda_ops/cpu/kernels.h"
#include "../../cuda_ops/cpu/threads.h"

using namespace samebits::SAMEBITS_ISA;
using std::string;
using Buffer = std::vector<float>;

static int threads = 1;
namespace samebits {
int thread_count() { return threads; }
int grain() { return 1; }
bool has_dot_product() { return false; }
}  // namespace samebits

enum Layout { kNT, kNN, kTN };

struct Config {
  int64_t seed, L, H, C, T, V, Vp, sequences, lanes, steps, warmup;
  double peak, final_fraction;
};

struct Shape {
  string name;
  int64_t rows, columns;  // a vector has rows 0
  int64_t size() const { return (rows ? rows : 1) * columns; }
};

static std::vector<Shape> shapes_of(const Config& k) {
  const int64_t c = k.C;
  std::vector<Shape> shapes = {{"wte.weight", k.Vp, c}, {"wpe.weight", k.T, c}};
  for (int64_t i = 0; i < k.L; i++) {
    const string b = "h." + std::to_string(i) + ".";
    const Shape layers[] = {{"ln_1", 0, c}, {"attn.qkv", 3 * c, c}, {"attn.proj", c, c},
                            {"ln_2", 0, c}, {"mlp.fc", 4 * c, c},   {"mlp.proj", c, 4 * c}};
    for (const Shape& s : layers) {
      shapes.push_back({b + s.name + ".weight", s.rows, s.columns});
      shapes.push_back({b + s.name + ".bias", 0, s.rows ? s.rows : s.columns});
    }
  }
  shapes.push_back({"ln_f.weight", 0, c});
  shapes.push_back({"ln_f.bias", 0, c});
  return shapes;
}

static double cos_pi(double x) {
  if (x > 0.5) return -cos_pi(1.0 - x);
  const double z = (3.141592653589793 * x) * (3.141592653589793 * x);
  double total = 1.0;
  for (int n = 22; n > 0; n -= 2) total = 1.0 - z / (double)(n * (n - 1)) * total;
  return total;
}

static float learning_rate(const Config& k, int64_t step) {
  const int64_t done = step - 1;
  if (done < k.warmup) return (float)(k.peak * (double)step / (double)k.warmup);
  const int64_t left = k.steps - k.warmup > 1 ? k.steps - k.warmup : 1;
  const double factor = 0.5 * (1.0 + cos_pi((double)(done - k.warmup) / (double)left));
  return (float)(k.peak * (k.final_fraction + (1.0 - k.final_fraction) * factor));
}

static float bias_correction(double beta, int64_t step) {
  double power = 1.0;
  for (int bit = 62; bit >= 0; bit--) {
    power = power * power;
    if (step >> bit & 1) power = power * beta;
  }
  return (float)(1.0 - power);
}

static double square_root(double x) {  // IEEE, the instruction: -fno-math-errno
  return __builtin_sqrt(x);
}

struct Saved {  // activations of one block, in whole sequences of a micro-batch
  Buffer inp, mean1, rstd1, norm1, qkv, attended, row_max, row_sum, middle, mean2, rstd2, norm2, fc, wide;
};

struct Model {
  Config k;
  std::vector<Shape> shapes;
  std::map<string, int64_t> offset;
  int64_t size = 0, flat = 0;
  Buffer parameters;

  explicit Model(const Config& config) : k(config), shapes(shapes_of(config)) {
    for (const Shape& s : shapes) {
      offset[s.name] = size;
      size += s.size();
    }
    const int64_t multiple = 4096 * k.lanes;
    flat = (size + multiple - 1) / multiple * multiple;
    parameters.assign(flat, 0.0f);
    const float std_ = (float)0.02, residual = (float)(0.02 / square_root((double)(2 * k.L)));
    for (const Shape& s : shapes) {
      float* at = w(s.name);
      const bool projection = s.name.find("proj.weight") != string::npos;
      if (s.rows) {
        fill_normal(at, s.size(), (uint64_t)k.seed, 1, (uint64_t)offset[s.name], 0.0f, projection ? residual : std_);
      } else {
        for (int64_t i = 0; i < s.size(); i++) at[i] = s.name.find("weight") != string::npos ? 1.0f : 0.0f;
      }
    }
    memset(w("wte.weight") + k.V * k.C, 0, (size_t)((k.Vp - k.V) * k.C) * sizeof(float));
  }
  float* w(const string& name) { return parameters.data() + offset.at(name); }
  float* g(Buffer& grads, const string& name) { return grads.data() + offset.at(name); }

  void linear(Buffer& out, const Buffer& x, const string& name, int64_t n, int64_t o, int64_t c) {
    out.resize(n * o);
    matmul(out.data(), x.data(), w(name + ".weight"), w(name + ".bias"), n, o, c, kNT, false);
  }
  // Gradients of out[B, T, o] = x W^T + bias, then dinp[B, T, c].
  void linear_backward(Buffer& dinp, Buffer& grads, const string& name, const Buffer& dout, const Buffer& x, int64_t B,
                       int64_t o, int64_t c) {
    bias_backward(g(grads, name + ".bias"), dout.data(), B, k.T, o);
    matmul(g(grads, name + ".weight"), dout.data(), x.data(), nullptr, o, c, B * k.T, kTN, true);
    dinp.resize(B * k.T * c);
    matmul(dinp.data(), dout.data(), w(name + ".weight"), nullptr, B * k.T, c, o, kNN, false);
  }
  void normalise(Buffer& out, Buffer& mean, Buffer& rstd, const Buffer& x, const string& name, int64_t n) {
    out.resize(n * k.C), mean.resize(n), rstd.resize(n);
    layernorm_forward(out.data(), mean.data(), rstd.data(), x.data(), w(name + ".weight"), w(name + ".bias"), n, k.C,
                      (float)1e-5);
  }
  void normalise_backward(Buffer& dstream, Buffer& grads, const string& name, const Buffer& dout,
                          const float* dresidual, const Buffer& x, const Buffer& mean, const Buffer& rstd, int64_t B) {
    layernorm_backward(dstream.data(), g(grads, name + ".weight"), g(grads, name + ".bias"), dout.data(), dresidual,
                       x.data(), w(name + ".weight"), mean.data(), rstd.data(), B, k.T, k.C);
  }

  void block_forward(Buffer& x, Saved& a, int64_t i, int64_t B) {
    const string b = "h." + std::to_string(i) + ".";
    const int64_t n = B * k.T, C = k.C;
    Buffer branch;
    a.inp = x;
    normalise(a.norm1, a.mean1, a.rstd1, x, b + "ln_1", n);
    linear(a.qkv, a.norm1, b + "attn.qkv", n, 3 * C, C);
    a.attended.resize(n * C), a.row_max.resize(n * k.H), a.row_sum.resize(n * k.H);
    attention_forward(a.attended.data(), a.row_max.data(), a.row_sum.data(), a.qkv.data(), B, k.T, C, k.H);
    linear(branch, a.attended, b + "attn.proj", n, C, C);
    a.middle.resize(n * C);
    add(a.middle.data(), x.data(), branch.data(), n * C);
    normalise(a.norm2, a.mean2, a.rstd2, a.middle, b + "ln_2", n);
    linear(a.fc, a.norm2, b + "mlp.fc", n, 4 * C, C);
    a.wide.resize(n * 4 * C);
    gelu_forward(a.wide.data(), a.fc.data(), n * 4 * C);
    linear(branch, a.wide, b + "mlp.proj", n, C, 4 * C);
    add(x.data(), a.middle.data(), branch.data(), n * C);
  }

  void block_backward(Buffer& dstream, const Saved& a, int64_t i, int64_t B, Buffer& grads) {
    const string b = "h." + std::to_string(i) + ".";
    const int64_t C = k.C;
    Buffer wide, branch, dqkv(B * k.T * 3 * C);
    linear_backward(wide, grads, b + "mlp.proj", dstream, a.wide, B, C, 4 * C);
    gelu_backward(wide.data(), wide.data(), a.fc.data(), B * k.T * 4 * C);
    linear_backward(branch, grads, b + "mlp.fc", wide, a.norm2, B, 4 * C, C);
    normalise_backward(dstream, grads, b + "ln_2", branch, dstream.data(), a.middle, a.mean2, a.rstd2, B);
    linear_backward(branch, grads, b + "attn.proj", dstream, a.attended, B, C, C);
    attention_backward(dqkv.data(), branch.data(), a.attended.data(), a.qkv.data(), a.row_max.data(), a.row_sum.data(),
                       B, k.T, C, k.H);
    linear_backward(branch, grads, b + "attn.qkv", dqkv, a.norm1, B, 3 * C, C);
    normalise_backward(dstream, grads, b + "ln_1", branch, dstream.data(), a.inp, a.mean1, a.rstd1, B);
  }

  // One micro-batch of whole sequences: continues grads, the input embedding's own accumulator and the lane's loss.
  void accumulate(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets, int64_t B, float dloss,
                  Buffer& grads, Buffer& dembedding, float* loss) {
    const int64_t n = B * k.T, C = k.C;
    std::vector<Saved> saved(k.L);
    Buffer x(n * C), hidden, mean, rstd, logits(n * k.Vp), losses(n), dhidden(n * C), dstream(n * C);
    embedding_forward(x.data(), tokens.data(), w("wte.weight"), w("wpe.weight"), B, k.T, C, 0);
    for (int64_t i = 0; i < k.L; i++) block_forward(x, saved[i], i, B);
    normalise(hidden, mean, rstd, x, "ln_f", n);
    matmul(logits.data(), hidden.data(), w("wte.weight"), nullptr, n, k.Vp, C, kNT, false);
    cross_entropy_fused(losses.data(), logits.data(), targets.data(), dloss, n, k.V, k.Vp);
    chain_sum(loss, losses.data(), n);
    matmul(dhidden.data(), logits.data(), w("wte.weight"), nullptr, n, C, k.Vp, kNN, false);
    matmul(g(grads, "wte.weight"), logits.data(), hidden.data(), nullptr, k.Vp, C, n, kTN, true);
    normalise_backward(dstream, grads, "ln_f", dhidden, nullptr, x, mean, rstd, B);
    for (int64_t i = k.L - 1; i >= 0; i--) block_backward(dstream, saved[i], i, B, grads);
    embedding_backward(dembedding.data(), g(grads, "wpe.weight"), dstream.data(), tokens.data(), B, k.T, C);
  }

  void lane(const int32_t* windows, int64_t micro_batch, float dloss, Buffer& grads, float* loss) {
    const int64_t count = k.sequences / k.lanes, width = k.T + 1;
    Buffer dembedding(k.V * k.C, 0.0f);
    std::vector<int32_t> rows;
    std::vector<bool> present(k.V, false);
    for (int64_t first = 0; first < count; first += micro_batch) {
      const int64_t B = count - first < micro_batch ? count - first : micro_batch;
      std::vector<int32_t> tokens, targets;
      for (int64_t s = first; s < first + B; s++) {
        tokens.insert(tokens.end(), windows + s * width, windows + s * width + k.T);
        targets.insert(targets.end(), windows + s * width + 1, windows + (s + 1) * width);
      }
      accumulate(tokens, targets, B, dloss, grads, dembedding, loss);
      for (int32_t token : tokens) present[token] = true;
    }
    for (int32_t token = 0; token < k.V; token++) {  // only the rows of the lane's own tokens are added
      if (!present[token]) continue;
      const int32_t row = token;
      embedding_add(g(grads, "wte.weight"), dembedding.data() + token * k.C, &row, 1, k.C);
    }
  }
};

int main(int argc, char** argv) {
  if (argc != 17) return fprintf(stderr, "usage: see the head of mini_training.cpp\n"), 2;
  int64_t n[14];
  for (int i = 2; i < 15; i++) n[i - 1] = strtoll(argv[i], nullptr, 10);
  threads = (int)n[1];
  const int64_t micro_batch = n[2];
  const Config k = {n[3],
                    n[4],
                    n[5],
                    n[6],
                    n[7],
                    n[8],
                    n[9],
                    n[10],
                    n[11],
                    n[12],
                    n[13],
                    strtod(argv[15], nullptr),
                    strtod(argv[16], nullptr)};
  std::vector<int32_t> windows(k.steps * k.sequences * (k.T + 1));
  FILE* file = fopen(argv[1], "rb");
  if (!file || fread(windows.data(), 4, windows.size(), file) != windows.size()) {
    return fprintf(stderr, "%s: cannot read %zu tokens\n", argv[1], windows.size()), 2;
  }
  fclose(file);
  Model model(k);
  Buffer m(model.flat, 0.0f), v(model.flat, 0.0f), partials(model.flat / 4096);
  const float dloss = (float)(1.0 / (double)(k.sequences * k.T));
  for (int64_t step = 1; step <= k.steps; step++) {
    std::vector<Buffer> grads(k.lanes, Buffer(model.flat, 0.0f));
    Buffer losses(k.lanes, 0.0f);
    for (int64_t lane = 0; lane < k.lanes; lane++) {
      const int64_t first = ((step - 1) * k.sequences + lane * (k.sequences / k.lanes)) * (k.T + 1);
      model.lane(windows.data() + first, micro_batch, dloss, grads[lane], &losses[lane]);
    }
    for (int64_t width = 1; width < k.lanes; width *= 2) {
      for (int64_t i = 0; i < k.lanes; i += 2 * width) {
        add(grads[i].data(), grads[i].data(), grads[i + width].data(), model.flat);
      }
    }
    float totals[2], loss_and_norm[2], factor;
    float scalars[3] = {learning_rate(k, step), bias_correction(0.9, step), bias_correction(0.95, step)};
    tree_sum(totals, losses.data(), k.lanes);
    norm_partials(partials.data(), grads[0].data(), model.flat, 4096);
    tree_sum(totals + 1, partials.data(), (int64_t)partials.size());
    step_scalars(loss_and_norm, &factor, totals, dloss, 1.0f);
    for (const Shape& s : model.shapes) {
      const int64_t at = model.offset[s.name];
      adamw(model.parameters.data() + at, m.data() + at, v.data() + at, grads[0].data() + at, &factor, scalars,
            s.size(), (float)0.9, (float)0.95, (float)1e-8, s.rows ? (float)0.1 : 0.0f);
    }
    uint64_t mark;
    fingerprint(&mark, (const uint32_t*)model.parameters.data(), model.size, 0);
    printf("%" PRId64 "\t%08x\t%08x\t%08x\t%016" PRIx64 "\n", step, to_bits(loss_and_norm[0]), to_bits(scalars[0]),
           to_bits(loss_and_norm[1]), mark);
  }
  return 0;
}
