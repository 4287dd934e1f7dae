"""The ops of a training step as benchmark cases: shapes of the models, what each must move or compute, ours and
PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as functional

from cuda_ops import ops
from cuda_ops.errors import UserError
from pipeline.evidence.speed_targets import TRAFFIC
from pipeline.machine.memory import Memory
from pipeline.models.gpt import Gpt
from pipeline.recipe import Gpt as Config


def _config(layers: int, heads: int, channels: int, vocabulary: int, padded: int) -> Config:
    return Config(
        kind="gpt", layers=layers, heads=heads, channels=channels, context=1024, vocab_size=vocabulary,
        padded_vocab_size=padded,
    )  # fmt: skip


MODELS = {
    "124M": _config(12, 12, 768, 50257, 50304),
    "1558M": _config(48, 25, 1600, 50257, 50304),
    "tiny": _config(2, 4, 64, 256, 256),
}


def models_of(names: str) -> list[str]:
    """Names of MODELS from a flag, separated by commas; UserError names what is allowed."""
    chosen = names.split(",")
    if set(chosen) - set(MODELS):
        raise UserError(f"--models {names}: allowed are {', '.join(MODELS)}")
    return chosen


@dataclass(frozen=True)
class Case:
    """One op: what it must do at least, ours, and PyTorch's. kind: matmul, attention, memory (bound by bandwidth) or
    fill.

    calls: how often a step of training makes it; bytes: what it moves.
    """

    kind: str
    op: str
    shape: str
    calls: int
    operations: float
    bytes: float
    ours: Callable[[], object]
    torch: Callable[[], object]


def lm_head_rows(config: Config, tokens: int, device: str) -> int:
    """Rows of a piece of the lm head, as the model takes them on this device; the number of layers does not matter."""
    sequences = max(1, tokens // config.context)
    model = Gpt(config.model_copy(update={"layers": 1}), sequences, training=False, memory=Memory(device))
    return min(tokens, model._logits.shape[0])


def products(config: Config, tokens: int, head_rows: int) -> list[tuple[str, str, int, int, int, int]]:
    """(what, layout, M, N, K, calls) of the products of one training step: output, gradient of the input, of the weight."""
    width, layers = config.channels, config.layers
    linear = [("qkv", 3 * width, width), ("projection", width, width), ("mlp in", 4 * width, width)]
    linear += [("mlp out", width, 4 * width), ("lm head", config.padded_vocab_size, width)]
    found = []
    for name, out, into in linear:
        rows, calls = (head_rows, math.ceil(tokens / head_rows)) if name == "lm head" else (tokens, layers)
        found.append((name, "nt", rows, out, into, calls))
        found.append((f"{name}, d input", "nn", rows, into, out, calls))
        found.append((f"{name}, d weight", "tn", out, into, rows, calls))
    return found


def matmul_case(what: str, layout: str, m: int, n: int, k: int, calls: int) -> Case:
    a = torch.randn((k, m) if layout == "tn" else (m, k))
    b = torch.randn((n, k) if layout == "nt" else (k, n))
    out, accumulate = torch.zeros(m, n), layout == "tn"  # weight gradients are added to

    def other() -> None:
        if accumulate:
            out.addmm_(a.t(), b)
        else:
            torch.mm(a, b.t() if layout == "nt" else b, out=out)

    size = 4.0 * (m * k + k * n + m * n * (2 if accumulate else 1))
    ours = partial(ops.matmul, out, a, b, layout=layout, accumulate=accumulate)
    return Case("matmul", what, f"{layout} {m}×{n}×{k}", calls, 2.0 * m * n * k, size, ours, other)


def memory_case(
    op: str, largest: torch.Tensor, calls: int, ours: Callable[[], object], other: Callable[[], object]
) -> Case:
    """An op that bandwidth bounds: it moves what TRAFFIC states per element of its largest tensor."""
    shape = "×".join(map(str, largest.shape))
    return Case("memory", op, shape, calls, 0.0, TRAFFIC[op].bytes * largest.numel(), ours, other)


def attention_cases(config: Config, tokens: int) -> list[Case]:
    width, heads, layers = config.channels, config.heads, config.layers
    t = min(tokens, config.context)
    b, size = tokens // t, width // heads
    qkv, dout, out = torch.randn(b, t, 3 * width), torch.randn(b, t, width), torch.empty(b, t, width)
    dqkv, row_max, row_sum = torch.empty_like(qkv), torch.empty(b, heads, t), torch.empty(b, heads, t)
    q, k, v = (p.reshape(b, t, heads, size).transpose(1, 2).contiguous() for p in qkv.split(width, dim=2))
    leaves = [p.clone().requires_grad_() for p in (q, k, v)]
    gradient = dout.view(b, t, heads, size).transpose(1, 2).contiguous()
    kept = functional.scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], is_causal=True)
    product = float(b * heads * t * (t + 1) * size)  # 2 operations on half of T x T
    rows, statistics_, shape = 4.0 * b * t * width, 8.0 * b * heads * t, f"{b}×{t}×{width}"
    ops.attention_forward(out, row_max, row_sum, qkv, heads)
    new, decoded, last = qkv[:, -1:].contiguous(), torch.empty(b, 1, width), q[:, :, -1:].contiguous()
    keys, values = k.clone(), v.clone()
    return [
        Case(
            "attention", "attention forward", shape, layers, 2 * product, 4 * rows + statistics_,
            lambda: ops.attention_forward(out, row_max, row_sum, qkv, heads),
            lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        ),
        Case(
            "attention", "attention backward", shape, layers, 5 * product, 8 * rows + statistics_,
            lambda: ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, heads),
            lambda: torch.autograd.grad(kept, leaves, gradient, retain_graph=True),
        ),
        memory_case(
            "attention cached", keys, 0, lambda: ops.attention_cached(decoded, keys, values, new, heads, t - 1),
            lambda: functional.scaled_dot_product_attention(last, k, v),
        ),
    ]  # fmt: skip


def layer_cases(config: Config, tokens: int) -> list[Case]:
    """LayerNorm, GELU, the residual stream and the bias of a block, at the widths of its tensors."""
    t, c, layers = min(tokens, config.context), config.channels, config.layers
    b = tokens // t
    x, y, g = (torch.randn(b, t, c) for _ in range(3))
    wide, dwide, out = (torch.randn(b, t, 4 * c) for _ in range(3))
    w, bias, dw, db, dbias = torch.randn(c), torch.randn(c), torch.zeros(c), torch.zeros(c), torch.zeros(4 * c)
    mean, rstd = torch.empty(b, t), torch.empty(b, t)
    lx, lw, lb = (z.clone().requires_grad_() for z in (x, w, bias))
    kept = functional.layer_norm(lx, (c,), lw, lb)
    ops.layernorm_forward(y, mean, rstd, x, w, bias)

    def torch_layernorm_backward() -> None:
        y.add_(torch.autograd.grad(kept, (lx, lw, lb), g, retain_graph=True)[0])

    norms = 2 * layers + 1
    return [
        memory_case(
            "layernorm forward", x, norms, lambda: ops.layernorm_forward(y, mean, rstd, x, w, bias),
            lambda: functional.layer_norm(x, (c,), w, bias),
        ),
        memory_case(
            "layernorm backward", x, norms, lambda: ops.layernorm_backward(y, dw, db, g, y, x, w, mean, rstd),
            torch_layernorm_backward,
        ),
        memory_case(
            "gelu forward", wide, layers, lambda: ops.gelu_forward(out, wide),
            lambda: functional.gelu(wide, approximate="tanh"),
        ),
        memory_case(
            "gelu backward", wide, layers, lambda: ops.gelu_backward(out, dwide, wide),
            lambda: torch.ops.aten.gelu_backward(dwide, wide, approximate="tanh"),
        ),
        memory_case("add", x, 2 * layers, lambda: ops.add(y, x, g), lambda: torch.add(x, g, out=y)),
        memory_case("bias backward", wide, layers, lambda: ops.bias_backward(dbias, wide), lambda: wide.sum((0, 1))),
    ]  # fmt: skip


def embedding_cases(config: Config, tokens: int) -> list[Case]:
    t, c, vocabulary = min(tokens, config.context), config.channels, config.padded_vocab_size
    b = tokens // t
    y, g = torch.empty(b, t, c), torch.randn(b, t, c)
    targets = torch.randint(0, vocabulary, (b, t), dtype=torch.int32)
    long_in = targets.long()
    wte, wpe = torch.randn(vocabulary, c), torch.randn(t, c)
    distinct, places = torch.unique(targets, return_inverse=True)  # the rows of the embedding that have a gradient
    slots, rows, long_rows, long_slots = places.int().view(b, t), distinct.int(), distinct.long(), places.view(-1)
    dwte, dwpe = torch.zeros(len(rows), c), torch.zeros(t, c)

    def torch_backward() -> None:
        dwte.index_add_(0, long_slots, g.view(-1, c))
        dwpe.add_(g.sum(0))

    return [
        memory_case(
            "embedding", y, 1, lambda: ops.embedding_forward(y, targets, wte, wpe, 0), lambda: wte[long_in] + wpe
        ),
        memory_case(
            "embedding backward", g, 1, lambda: ops.embedding_backward(dwte, dwpe, g, slots), torch_backward
        ),
        memory_case(
            "embedding add", dwte, 1, lambda: ops.embedding_add(wte, dwte, rows),
            lambda: wte.index_add_(0, long_rows, dwte),
        ),
    ]  # fmt: skip


def cross_entropy_case(rows: int, vocabulary: int, calls: int) -> list[Case]:
    logits, losses = torch.randn(rows, vocabulary), torch.empty(rows)
    targets = torch.randint(0, vocabulary, (rows,), dtype=torch.int32)
    long_targets, leaf = targets.long(), logits.clone().requires_grad_()

    def other() -> None:
        loss = functional.cross_entropy(leaf, long_targets, reduction="sum")
        torch.autograd.grad(loss, leaf)

    ours = partial(ops.cross_entropy_fused, losses, logits, targets, 1.0, vocabulary)
    return [memory_case("cross entropy + gradient", logits, calls, ours, other)]


def optimizer_cases(config: Config) -> list[Case]:
    """What reads the flat parameters, over four layers of them; calls are such pieces of a step."""
    n, layers = 48 * config.channels**2, config.layers
    p, m, s, d = (torch.rand(n) for _ in range(4))
    factor, scalars = torch.ones(1), torch.tensor([1e-3, 0.1, 0.05])
    leaf = p.clone().requires_grad_()
    leaf.grad = d.clone()
    adam = torch.optim.AdamW([leaf], 1e-3, fused=True, capturable=leaf.is_cuda)
    partials, fingerprint = torch.empty((n + 4095) // 4096), torch.empty(1, dtype=torch.int64)
    pieces = math.ceil(layers / 4)
    fill = Case(
        "fill", "fill normal", str(n), 0, 0.0, 4.0 * n, lambda: ops.fill_normal(d, 1, 2, 0, 0.0, 0.02),
        lambda: d.normal_(0.0, 0.02),
    )  # fmt: skip
    return [
        memory_case("adamw", p, pieces, lambda: ops.adamw(p, m, s, d, factor, scalars, 0.9, 0.95, 1e-8, 0.1), adam.step),
        memory_case(
            "gradient norm", p, pieces, lambda: ops.norm_partials(partials, p), lambda: torch.linalg.vector_norm(p)
        ),
        memory_case(
            "fingerprint", p, pieces, lambda: ops.fingerprint_into(fingerprint, p),
            lambda: p.view(torch.int32).sum(),
        ),
        fill,  # last: what it writes is read above
    ]  # fmt: skip


def groups(config: Config, tokens: int, head_rows: int) -> list[Callable[[], list[Case]]]:
    """What makes the cases of a model, a group at a time, so that its tensors are freed before the next."""

    def product(shape: tuple[str, str, int, int, int, int]) -> list[Case]:
        return [matmul_case(*shape)]

    return [
        *(partial(product, shape) for shape in products(config, tokens, head_rows)),
        partial(attention_cases, config, tokens),
        partial(layer_cases, config, tokens),
        partial(embedding_cases, config, tokens),
        partial(cross_entropy_case, head_rows, config.padded_vocab_size, math.ceil(tokens / head_rows)),
        partial(optimizer_cases, config),
    ]
