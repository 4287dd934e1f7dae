"""Each op against its PyTorch counterpart and against the machine's limit, in one run.

    python -m benchmarks.ops --threads 2

The limits are measured in the same run (limits.py): fused multiply-adds held in registers, and the copy bandwidth of a tensor far
larger than the caches. Sides are interleaved; medians. Bytes are those that an op must read and write at least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

from benchmarks.limits import copy_bandwidth, fma_peak
from benchmarks.table import header, write
from cuda_ops import ops, runtime

Case = tuple[str, float, float, Callable[[], object], Callable[[], object]]  # name, flops, bytes, ours, PyTorch's


def matmul_cases() -> list[Case]:
    """The products of one training step: forward, gradient of the input, gradient of the weight."""
    cases: list[Case] = []
    for m, n, k in [
        (4096, 384, 128),
        (4096, 512, 128),
        (2048, 1536, 384),
        (1024, 2304, 768),
        (1024, 3072, 768),
        (512, 50304, 768),
    ]:
        x, w, y = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
        dx, dw = torch.empty(m, k), torch.zeros(n, k)
        flops = 2.0 * m * n * k
        shape = f"{m}×{n}×{k}"

        def forward(y: Tensor = y, x: Tensor = x, w: Tensor = w) -> None:
            ops.matmul(y, x, w)

        def torch_forward(y: Tensor = y, x: Tensor = x, w: Tensor = w) -> None:
            torch.mm(x, w.t(), out=y)

        def inputs(dx: Tensor = dx, y: Tensor = y, w: Tensor = w) -> None:
            ops.matmul(dx, y, w, layout="nn")

        def torch_inputs(dx: Tensor = dx, y: Tensor = y, w: Tensor = w) -> None:
            torch.mm(y, w, out=dx)

        def weights(dw: Tensor = dw, y: Tensor = y, x: Tensor = x) -> None:
            ops.matmul(dw, y, x, layout="tn", accumulate=True)

        def torch_weights(dw: Tensor = dw, y: Tensor = y, x: Tensor = x) -> None:
            dw.addmm_(y.t(), x)

        cases += [
            (f"matmul nt {shape}", flops, 0, forward, torch_forward),
            (f"matmul nn {shape}", flops, 0, inputs, torch_inputs),
            (f"matmul tn {shape}", flops, 0, weights, torch_weights),
        ]
    return cases


def attention_cases() -> list[Case]:
    cases: list[Case] = []
    for b, t, h, size in [(16, 256, 4, 32), (8, 256, 6, 64), (1, 1024, 12, 64)]:
        c = h * size
        qkv, dout = torch.randn(b, t, 3 * c), torch.randn(b, t, c)
        out, dqkv = torch.empty(b, t, c), torch.empty(b, t, 3 * c)
        row_max, row_sum = torch.empty(b, h, t), torch.empty(b, h, t)
        leaf = qkv.clone().requires_grad_()

        def sdpa(leaf: Tensor = leaf, b: int = b, t: int = t, h: int = h, c: int = c) -> Tensor:
            q, k, v = (p.view(b, t, h, c // h).transpose(1, 2) for p in leaf.split(c, dim=2))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return y.transpose(1, 2).reshape(b, t, c)

        def both(args: tuple[Tensor, ...] = (dqkv, dout, out, qkv, row_max, row_sum), h: int = h) -> None:
            dqkv, dout, out, qkv, row_max, row_sum = args
            ops.attention_forward(out, row_max, row_sum, qkv, h)
            ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, h)

        def torch_both(leaf: Tensor = leaf, dout: Tensor = dout, sdpa: Callable[[], Tensor] = sdpa) -> None:
            leaf.grad = None
            sdpa().backward(dout)

        # Two products forward and five backward over half of the T × T scores.
        cases.append((f"attention {b}×{t}×{h}×{size}", 7.0 * b * h * t * t * size, 0, both, torch_both))
    return cases


def row_cases() -> list[Case]:
    """Ops that read and write memory once; tensors are far larger than the caches. PyTorch writes into given outputs too."""
    b, t, c, v = 16, 1024, 768, 50304
    x, y, g = torch.randn(b, t, c), torch.empty(b, t, c), torch.randn(b, t, c)
    weight, bias = torch.randn(c), torch.randn(c)
    mean, rstd = torch.empty(b, t), torch.empty(b, t)
    dweight, dbias = torch.zeros(c), torch.zeros(c)
    aten = torch.ops.aten
    tmean, trstd = torch.empty(b, t, 1), torch.empty(b, t, 1)
    aten.native_layer_norm.out(x, [c], weight, bias, 1e-5, out0=y, out1=tmean, out2=trstd)
    ops.layernorm_forward(y, mean, rstd, x, weight, bias)
    logits, losses, targets = torch.randn(512, v), torch.empty(512), torch.randint(0, v, (512,), dtype=torch.int32)
    long_targets, z = targets.long(), torch.empty(512, v)
    dlogits, log_softmax = torch.empty(512, v), torch.empty(512, v)
    p, m, s, d = (torch.rand(1 << 25) for _ in range(4))
    factor, scalars = torch.ones(1), torch.tensor([1e-3, 0.1, 0.05])
    leaf = p.clone().requires_grad_()
    leaf.grad = d
    adam = torch.optim.AdamW([leaf], 1e-3, fused=True)
    partials = torch.empty(p.numel() // ops.NORM_CHUNK)
    tokens = torch.randint(0, v, (b, t), dtype=torch.int32)
    table, places, dtable, dplaces = torch.randn(v, c), torch.randn(t, c), torch.zeros(v, c), torch.zeros(t, c)
    big = x.numel() * 4.0

    def layernorm_backward() -> None:
        ops.layernorm_backward(y, dweight, dbias, g, None, x, weight, mean, rstd)

    def torch_layernorm_backward() -> None:
        aten.native_layer_norm_backward(g, x, [c], tmean, trstd, weight, bias, [True, True, True])

    def fused() -> None:
        z.copy_(logits)
        ops.cross_entropy_fused(losses, z, targets, 1.0, v)

    def torch_fused() -> None:
        z.copy_(logits)
        torch.log_softmax(z, 1, out=log_softmax)
        functional.nll_loss(log_softmax, long_targets, reduction="none")
        torch.exp(log_softmax, out=dlogits)
        dlogits[torch.arange(512), long_targets] -= 1.0

    def embedding() -> None:
        ops.embedding_forward(y, tokens, table, places)

    def torch_embedding() -> None:
        torch.add(functional.embedding(tokens, table), places, out=y)

    def torch_embedding_backward() -> None:
        dtable.index_add_(0, tokens.view(-1), g.view(-1, c))
        dplaces.add_(g.sum(0))

    return [
        (
            "layernorm forward", 0, 2 * big, lambda: ops.layernorm_forward(y, mean, rstd, x, weight, bias),
            lambda: aten.native_layer_norm.out(x, [c], weight, bias, 1e-5, out0=y, out1=tmean, out2=trstd),
        ),
        ("layernorm backward", 0, 3 * big, layernorm_backward, torch_layernorm_backward),
        ("gelu forward", 0, 2 * big, lambda: ops.gelu_forward(y, x), lambda: aten.gelu.out(x, approximate="tanh", out=y)),
        (
            "gelu backward", 0, 3 * big, lambda: ops.gelu_backward(y, g, x),
            lambda: aten.gelu_backward.grad_input(g, x, approximate="tanh", grad_input=y),
        ),
        ("add", 0, 3 * big, lambda: ops.add(y, x, g), lambda: torch.add(x, g, out=y)),
        ("bias backward", 0, big, lambda: ops.bias_backward(dbias, g), lambda: torch.sum(g, (0, 1), out=dbias)),
        ("embedding forward", 0, 2 * big, embedding, torch_embedding),
        (
            "embedding backward", 0, 3 * big, lambda: ops.embedding_backward(dtable, dplaces, g, tokens),
            torch_embedding_backward,
        ),
        ("cross entropy + gradient", 0, 4.0 * logits.numel() * 4, fused, torch_fused),
        (
            "adamw", 0, 7.0 * p.numel() * 4, lambda: ops.adamw(p, m, s, d, factor, scalars, 0.9, 0.95, 1e-8, 0.1),
            adam.step,
        ),
        ("gradient norm", 0, p.numel() * 4.0, lambda: ops.norm_partials(partials, p), lambda: torch.linalg.vector_norm(p)),
        ("fingerprint", 0, p.numel() * 4.0, lambda: ops.fingerprint(p), lambda: p.view(torch.int32).sum()),
    ]  # fmt: skip


def seconds(function: Callable[[], object], repeats: int) -> float:
    clock = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - clock) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description="Each op against PyTorch and against the machine's limit.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runtime.set_threads(args.threads)
    peak, copy = fma_peak(args.threads), copy_bandwidth()
    lines = [
        header(args.threads, f"medians of {args.rounds} interleaved rounds"),
        "",
        f"Limits in this run: {peak / 1e9:.0f} GFLOP/s of fused multiply-adds in registers, {copy / 1e9:.1f} GB/s of a copy.",
        "",
        "| op | samebits | PyTorch | samebits to the limit | PyTorch to the limit | speed ratio |",
        "|---|---|---|---|---|---|",
    ]
    for cases in (matmul_cases, attention_cases, row_cases):
        for name, flops, size, ours, other in cases():
            if args.only not in name:
                continue
            repeats = max(1, int(0.05 / max(1e-6, seconds(ours, 1))))
            seconds(other, 1)
            times = [(seconds(ours, repeats), seconds(other, repeats)) for _ in range(args.rounds)]
            mine, theirs = (statistics.median(t) for t in zip(*times, strict=True))
            work, limit, unit = (flops, peak, "GFLOP/s") if flops else (size, copy, "GB/s")
            lines.append(
                f"| {name} | {work / mine / 1e9:.1f} {unit} | {work / theirs / 1e9:.1f} | {work / mine / limit:.2f} "
                f"| {work / theirs / limit:.2f} | {theirs / mine:.2f} |"
            )
    write(lines, args.out)


if __name__ == "__main__":
    main()
