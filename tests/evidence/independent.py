"""The training once more, written from docs/numerics.md alone: NumPy, no code of cuda_ops or pipeline.

    python -m tests.evidence.independent tests/recipes/odd.yaml TOKENS_DIR --steps 4

Trains a recipe's GPT and prints each step as a line of chain.tsv has it: loss, lr, norm, fingerprint. It is naive on
purpose and meant for tiny models. tests/evidence/test_independent.py compares it with the trainer, bit for bit. Where
the page was silent or could be misread when this was written, the page was mended: docs/evidence/README.md lists the
gaps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.evidence.independent_arithmetic import (
    U32,
    U64,
    Array,
    F,
    chain,
    exp,
    fma,
    gelu,
    gelu_derivative,
    log,
    normals,
    pairwise,
    row_reduction,
    words,
)

Tensors = dict[str, Array]
CHUNK = 4096


# ----------------------------------------------------------------------------------------------------------- operators


def linear(x: Array, w: Array, bias: Array | None = None) -> Array:
    """[n, in] by [out, in] to [n, out]: each output one chain over `in`, then the bias by one addition."""
    out = chain(np.zeros((len(x), len(w)), F), ((x[:, k, None], w[None, :, k]) for k in range(x.shape[1])))
    return out if bias is None else out + bias


def layernorm(x: Array, w: Array, b: Array) -> tuple[Array, Array, Array]:
    n = x.shape[1]
    mean = row_reduction(n, lambda p, i: p + x[:, i], x.shape[:1]) / F(n)
    d = x - mean[:, None]
    rstd = F(1) / np.sqrt(row_reduction(n, lambda p, i: fma(d[:, i], d[:, i], p), x.shape[:1]) / F(n) + F(1e-5))
    return fma(d * rstd[:, None], w, b), mean, rstd


def columns(sequences: int, step: Callable[[Array, Array], Array], tokens: int, start: Array) -> Array:
    """Column reduction: a row reduction over the tokens of each sequence, added to the accumulator in order."""
    for s in range(sequences):
        start = start + row_reduction(tokens, lambda p, t, s=s: step(p, s * tokens + t), start.shape)
    return start


class Gpt:
    """Forward and backward of the lanes of one step. x is [n, C] with n = sequences * T rows."""

    def __init__(self, model: dict[str, int], weights: Tensors) -> None:
        self.m, self.w = model, weights
        self.T, self.C, self.H = model["context"], model["channels"], model["heads"]
        self.scale = F(1) / np.sqrt(F(self.C // self.H))

    def add_linear(self, g: Tensors, name: str, dout: Array, x: Array) -> Array:
        """Gradients of a linear layer; returns that of its input: a chain over the outputs."""
        g[name + ".weight"] = self.weight_gradient(g[name + ".weight"], dout, x)
        g[name + ".bias"] = columns(len(x) // self.T, lambda p, t: p + dout[t], self.T, g[name + ".bias"])
        return self.transposed(dout, self.w[name + ".weight"])

    def linear(self, x: Array, w: Array, bias: Array | None = None) -> Array:
        return linear(x, w, bias)

    def weight_gradient(self, start: Array, dout: Array, x: Array) -> Array:
        return chain(start, ((dout[t, :, None], x[t][None]) for t in range(len(x))))

    def transposed(self, dout: Array, w: Array) -> Array:
        return chain(np.zeros((len(dout), w.shape[1]), F), ((dout[:, o, None], w[o][None]) for o in range(len(w))))

    def add_layernorm(self, g: Tensors, name: str, dout: Array, dresidual: Array, saved: tuple[Array, ...]) -> Array:
        x, mean, rstd = saved
        w, c = self.w[name + ".weight"], self.C
        n = (x - mean[:, None]) * rstd[:, None]
        weighted = dout * w
        a = row_reduction(c, lambda p, i: fma(dout[:, i], w[i], p), x.shape[:1]) / F(c)
        b = row_reduction(c, lambda p, i: fma(weighted[:, i], n[:, i], p), x.shape[:1]) / F(c)
        dinp = fma(-n, b[:, None], weighted - a[:, None]) * rstd[:, None]
        sequences = len(x) // self.T
        g[name + ".weight"] = columns(sequences, lambda p, t: fma(dout[t], n[t], p), self.T, g[name + ".weight"])
        g[name + ".bias"] = columns(sequences, lambda p, t: p + dout[t], self.T, g[name + ".bias"])
        return dresidual + dinp

    def heads(self, qkv: Array) -> list[Array]:
        """q, k, v as [B, H, T, head size] of [n, 3C]."""
        parts = qkv.reshape(-1, self.T, 3, self.H, self.C // self.H).transpose(2, 0, 3, 1, 4)
        return list(parts)

    def attention(self, qkv: Array) -> tuple[Array, Array]:
        """Output [n, C] and the probabilities [B, H, T, T]; keys after the query are skipped."""
        q, k, v = self.heads(qkv)
        size = self.C // self.H
        zeros = np.zeros((*q.shape[:2], self.T, self.T), F)
        s = chain(zeros, ((q[..., :, None, d], k[..., None, :, d]) for d in range(size))) * self.scale
        out, p = np.zeros_like(q), np.zeros_like(zeros)
        for i in range(self.T):
            e = exp(s[:, :, i, : i + 1] - s[:, :, i, : i + 1].max(axis=-1, keepdims=True))
            total = np.zeros(q.shape[:2], F)
            for j in range(i + 1):
                total = total + e[..., j]
            inverse = F(1) / total
            o = chain(out[:, :, i], ((e[..., j, None], v[:, :, j]) for j in range(i + 1)))
            out[:, :, i] = o * inverse[..., None]
            p[:, :, i, : i + 1] = e * inverse[..., None]
        return out.transpose(0, 2, 1, 3).reshape(-1, self.C), p

    def attention_backward(self, dout: Array, out: Array, p: Array, qkv: Array) -> Array:
        q, k, v = self.heads(qkv)
        size = self.C // self.H
        do, o = (a.reshape(-1, self.T, self.H, size).transpose(0, 2, 1, 3) for a in (dout, out))
        delta = chain(np.zeros(do.shape[:3], F), ((do[..., d], o[..., d]) for d in range(size)))
        dp = chain(np.zeros_like(p), ((do[..., :, None, d], v[..., None, :, d]) for d in range(size)))
        ds = p * (dp - delta[..., None])
        dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(q)
        for i in range(self.T):
            dq[:, :, i] = chain(dq[:, :, i], ((ds[:, :, i, j, None], k[:, :, j]) for j in range(i + 1)))
            later = range(i, self.T)
            dk[:, :, i] = chain(dk[:, :, i], ((ds[:, :, t, i, None], q[:, :, t]) for t in later))
            dv[:, :, i] = chain(dv[:, :, i], ((p[:, :, t, i, None], do[:, :, t]) for t in later))
        parts = np.stack([dq * self.scale, dk * self.scale, dv])
        return parts.transpose(1, 3, 0, 2, 4).reshape(-1, 3 * self.C)

    def lane(self, tokens: Array, targets: Array, dloss: F) -> tuple[F, Tensors]:
        """Loss (a chain of additions over the lane's tokens) and gradients of [B, T] tokens."""
        w, t, g = self.w, self.T, {name: np.zeros_like(a) for name, a in self.w.items()}
        rows, wanted, positions = tokens.reshape(-1), targets.reshape(-1), np.tile(np.arange(t), len(tokens))
        x = w["wte.weight"][rows] + w["wpe.weight"][positions]
        saved = []
        for i in range(self.m["layers"]):
            b = f"h.{i}."
            n1, *s1 = layernorm(x, w[b + "ln_1.weight"], w[b + "ln_1.bias"])
            qkv = self.linear(n1, w[b + "attn.qkv.weight"], w[b + "attn.qkv.bias"])
            a, p = self.attention(qkv)
            middle = x + self.linear(a, w[b + "attn.proj.weight"], w[b + "attn.proj.bias"])
            n2, *s2 = layernorm(middle, w[b + "ln_2.weight"], w[b + "ln_2.bias"])
            fc = self.linear(n2, w[b + "mlp.fc.weight"], w[b + "mlp.fc.bias"])
            after = gelu(fc)
            saved.append(((x, *s1), n1, qkv, a, p, (middle, *s2), n2, fc, after))
            x = middle + self.linear(after, w[b + "mlp.proj.weight"], w[b + "mlp.proj.bias"])
        n, *s = layernorm(x, w["ln_f.weight"], w["ln_f.bias"])
        losses, dlogits = self.cross_entropy(self.linear(n, w["wte.weight"]), wanted, dloss)
        loss = F(0)
        for value in losses:
            loss = loss + value

        g["wte.weight"] = self.weight_gradient(g["wte.weight"], dlogits, n)
        dn = self.transposed(dlogits, w["wte.weight"])
        dx = self.add_layernorm(g, "ln_f", dn, np.zeros_like(x), (x, *s))
        for i in reversed(range(self.m["layers"])):
            b = f"h.{i}."
            into1, n1, qkv, a, p, into2, n2, fc, after = saved[i]
            dafter = self.add_linear(g, b + "mlp.proj", dx, after)
            dn2 = self.add_linear(g, b + "mlp.fc", dafter * gelu_derivative(fc), n2)
            dx = self.add_layernorm(g, b + "ln_2", dn2, dx, into2)
            da = self.add_linear(g, b + "attn.proj", dx, a)
            dn1 = self.add_linear(g, b + "attn.qkv", self.attention_backward(da, a, p, qkv), n1)
            dx = self.add_layernorm(g, b + "ln_1", dn1, dx, into1)
        embedding: dict[int, Array] = {}
        for r, token in enumerate(rows):
            embedding[token] = embedding.get(token, np.zeros(self.C, F)) + dx[r]
            g["wpe.weight"][positions[r]] = g["wpe.weight"][positions[r]] + dx[r]
        for token, value in embedding.items():
            g["wte.weight"][token] = g["wte.weight"][token] + value
        return loss, g

    def cross_entropy(self, logits: Array, targets: Array, dloss: F) -> tuple[Array, Array]:
        real, rows = self.m["vocab_size"], np.arange(len(logits))
        d = logits[:, :real] - logits[:, :real].max(axis=1, keepdims=True)
        e = exp(d)
        total = row_reduction(real, lambda p, i: p + e[:, i], (len(d),))
        share = e * (F(1) / total)[:, None]
        dlogits = np.zeros_like(logits)
        dlogits[:, :real] = share * dloss
        dlogits[rows, targets] = (share[rows, targets] - F(1)) * dloss
        return log(total) - d[rows, targets], dlogits


# ------------------------------------------------------------------------------------------------------------ training


def shapes(m: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The flat parameter space."""
    c = m["channels"]
    out: dict[str, tuple[int, ...]] = {"wte.weight": (m["padded_vocab_size"], c), "wpe.weight": (m["context"], c)}
    for i in range(m["layers"]):
        block = {"ln_1": (c,), "attn.qkv": (3 * c, c), "attn.proj": (c, c), "ln_2": (c,), "mlp.fc": (4 * c, c),
                 "mlp.proj": (c, 4 * c)}  # fmt: skip
        for name, shape in block.items():
            out |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[:1]}
    return out | {"ln_f.weight": (c,), "ln_f.bias": (c,)}


def initial(bits: dict[str, Any]) -> Tensors:
    m, std, position, weights = bits["model"], bits.get("init", {}).get("std", 0.02), 0, {}
    for name, shape in shapes(m).items():
        size = int(np.prod(shape))
        if len(shape) == 2:
            deviation = F(std / float(np.sqrt(np.float64(2 * m["layers"])))) if name.endswith("proj.weight") else F(std)
            weights[name] = normals(bits["seed"], position, size, deviation).reshape(shape)
        else:
            weights[name] = np.full(shape, F("ln_" in name and name.endswith("weight")))
        position += size
    weights["wte.weight"][m["vocab_size"] :] = F(0)
    return weights


def windows(bits: dict[str, Any], tokens_dir: Path, step: int) -> Array:
    """[sequences, T + 1] tokens of a step."""
    shards = sorted(tokens_dir.glob("train_[0-9]*.bin"))
    tokens = np.concatenate([np.frombuffer(path.read_bytes(), "<u2", offset=1024) for path in shards]).astype(np.int64)
    t, per_step, order = bits["model"]["context"], bits["batch"]["sequences"], bits["data"]["order"]
    last = len(tokens) - t - 1
    starts = np.arange(0, last + 1, t)
    if order == "documents":
        starts = np.load(tokens_dir / "train_documents.npy")
        starts = starts[starts <= last]
    rows = []
    for number in range((step - 1) * per_step, step * per_step):
        epoch, position = divmod(number, len(starts))
        if order == "random":
            low, high = (int(x) for x in words(bits["seed"], 2, 2 * number, 2))
            offset = (low | high << 32) * (last + 1) >> 64
        elif order == "sequential":
            offset = int(starts[position])
        else:
            w = words(bits["seed"], 2, 2 * epoch * len(starts), 2 * len(starts))
            offset = int(starts[np.argsort(w[0::2] | w[1::2] << U64(32), kind="stable")[position]])
        rows.append(tokens[offset : offset + t + 1])
    return np.stack(rows)


def learning_rate(s: dict[str, Any], step: int, steps: int) -> F:
    done, warmup, final = step - 1, s["warmup_steps"], s.get("final_fraction", 0.1)
    if done < warmup:
        return F(s["peak"] * float(step) / float(warmup))
    ratio = float(done - warmup) / float(max(1, steps - warmup))

    def cosine(x: float) -> float:
        z, total = (3.141592653589793 * x) * (3.141592653589793 * x), 1.0
        for k in range(22, 0, -2):
            total = 1.0 - z / float(k * (k - 1)) * total
        return total

    kind = s.get("kind", "cosine")
    if kind == "constant":
        return F(s["peak"])
    if kind == "linear":
        factor = 1.0 - ratio
    elif kind == "wsd":
        start = float(steps) * 0.8
        late = (float(done) - start) / (float(steps) - start)
        factor = 1.0 - float(np.sqrt(late)) if late > 0.0 else 1.0
    else:
        factor = 0.5 * (1.0 + (cosine(ratio) if ratio <= 0.5 else -cosine(1.0 - ratio)))
    return F(s["peak"] * (final + (1.0 - final) * factor))


def power(beta: float, t: int) -> float:
    value = 1.0
    for bit in bin(t)[2:]:
        value = value * value * (beta if bit == "1" else 1.0)
    return value


def flat(tensors: Tensors, multiple: int = 1) -> Array:
    """The flat parameter space, zero-padded to a multiple."""
    values = np.concatenate([a.reshape(-1) for a in tensors.values()])
    return np.concatenate([values, np.zeros(-len(values) % multiple, F)])


def fingerprint(values: Array) -> int:
    k = (np.arange(len(values), dtype=U64) + U64(1)) * U64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        return int(np.sum((values.view(U32).astype(U64) ^ (k >> U64(32))) * (k | U64(1)), dtype=U64))


class Training:
    """A run, step by step."""

    def __init__(self, recipe: Path, tokens_dir: Path) -> None:
        self.bits, self.tokens_dir, self.step = yaml.safe_load(recipe.read_text())["bits"], tokens_dir, 0
        self.weights = initial(self.bits)
        self.m = {name: np.zeros_like(a) for name, a in self.weights.items()}
        self.v = {name: np.zeros_like(a) for name, a in self.weights.items()}

    def gpt(self) -> Gpt:
        """The model with the weights as they are; another tier's has its own products."""
        tier = self.bits.get("numerics", "fp32")
        if tier == "fp32":
            return Gpt(self.bits["model"], self.weights)
        from tests.evidence.independent_digits import DigitsGpt

        return DigitsGpt(self.bits["model"], self.weights, tier)

    def advance(self) -> tuple[F, F, F, int]:
        """One step: loss, learning rate, gradient norm, fingerprint of the weights after it."""
        self.step += 1
        bits, lanes = self.bits, self.bits["batch"]["lanes"]
        batch = windows(bits, self.tokens_dir, self.step)
        count = batch.shape[0] * bits["model"]["context"]
        dloss = F(1.0 / count)
        gpt = self.gpt()
        results = [gpt.lane(rows[:, :-1], rows[:, 1:], dloss) for rows in np.split(batch, lanes)]
        loss = pairwise([np.asarray(r[0]) for r in results]) * dloss
        grads = {name: pairwise([r[1][name] for r in results]) for name in self.weights}
        chunks = flat(grads, CHUNK * lanes).reshape(-1, CHUNK)
        squares = row_reduction(CHUNK, lambda p, i: fma(chunks[:, i], chunks[:, i], p), (len(chunks),))
        norm = np.sqrt(pairwise(list(squares)))
        lr = learning_rate(bits["schedule"], self.step, bits["steps"])
        self.update(grads, lr, norm)
        return F(loss), lr, F(norm), fingerprint(flat(self.weights))

    def update(self, grads: Tensors, lr: F, norm: Array) -> None:
        o = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0} | self.bits.get(
            "optimizer", {}
        )
        clip = F(1) if norm <= F(o["clip_norm"]) else F(o["clip_norm"]) / norm
        b1, b2, eps = F(o["beta1"]), F(o["beta2"]), F(o["eps"])
        i1, i2 = (F(1) / F(1.0 - power(o[name], self.step)) for name in ("beta1", "beta2"))
        for name, grad in grads.items():
            wd = F(o["weight_decay"]) if grad.ndim == 2 else F(0)
            g = grad * clip
            m = self.m[name] = fma(b1, self.m[name], (F(1) - b1) * g)
            v = self.v[name] = fma(b2, self.v[name], ((F(1) - b2) * g) * g)
            u = (m * i1) / (np.sqrt(v * i2) + eps)
            self.weights[name] = fma(-lr, fma(wd, self.weights[name], u), self.weights[name])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a recipe by the independent implementation.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("tokens_dir", type=Path)
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    training = Training(options.recipe, options.tokens_dir)
    for _ in range(options.steps):
        loss, lr, norm, mark = training.advance()
        print(f"{training.step}\t{float(loss).hex()}\t{float(lr).hex()}\t{float(norm).hex()}\t{mark:016x}", flush=True)


if __name__ == "__main__":
    main()
