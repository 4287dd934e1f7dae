"""Each op against its PyTorch counterpart and against the machine's limit, in one run.

    python -m benchmarks.ops --threads 2

The limits are measured here: the copy bandwidth of a tensor far larger than the caches, and, since nothing in Python reaches the
peak FMA rate, the fastest matrix product that either side does. Repeats are interleaved; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

from cuda_ops import ops

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
    n, c, v = 4096, 768, 8192
    x, y, g = torch.randn(16, n // 16, c), torch.empty(16, n // 16, c), torch.randn(16, n // 16, c)
    w, b = torch.randn(c), torch.randn(c)
    mean, rstd = torch.empty(16, n // 16), torch.empty(16, n // 16)
    dw, db = torch.zeros(c), torch.zeros(c)
    logits, losses, targets = torch.randn(512, v), torch.empty(512), torch.randint(0, v, (512,), dtype=torch.int32)
    p, m, s, d = (torch.rand(1 << 22) for _ in range(4))
    scalars = torch.tensor([1.0, 1e-3, 0.1, 0.05])
    leaf = p.clone().requires_grad_()
    leaf.grad = d
    adam = torch.optim.AdamW([leaf], 1e-3, fused=True)
    lx, lw, lb = (z.clone().requires_grad_() for z in (x, w, b))
    z = logits.clone()
    ll = logits.clone().requires_grad_()
    ops.layernorm_forward(y, mean, rstd, x, w, b)
    big = x.numel() * 4.0

    def torch_layernorm_backward() -> None:
        functional.layer_norm(lx, (c,), lw, lb).backward(g)

    def layernorm_both() -> None:
        ops.layernorm_forward(y, mean, rstd, x, w, b)
        ops.layernorm_backward(y, dw, db, g, None, x, w, mean, rstd)

    def fused() -> None:
        z.copy_(logits)
        ops.cross_entropy_fused(losses, z, targets, 1.0, v)

    def torch_fused() -> None:
        ll.grad = None
        functional.cross_entropy(ll, targets.long(), reduction="sum").backward()

    return [
        ("layernorm forward", 0, 2 * big, lambda: ops.layernorm_forward(y, mean, rstd, x, w, b), lambda: functional.layer_norm(x, (c,), w, b)),
        ("layernorm forward + backward", 0, 5 * big, layernorm_both, torch_layernorm_backward),
        ("gelu forward", 0, 2 * big, lambda: ops.gelu_forward(y, x), lambda: functional.gelu(x, approximate="tanh")),
        (
            "gelu backward", 0, 3 * big, lambda: ops.gelu_backward(y, g, x),
            lambda: torch.ops.aten.gelu_backward(g, x, approximate="tanh"),
        ),
        ("residual", 0, 3 * big, lambda: ops.residual_forward(y, x, g), lambda: torch.add(x, g, out=y)),
        ("bias backward", 0, big, lambda: ops.bias_backward(db, g), lambda: g.sum((0, 1))),
        ("cross entropy + gradient", 0, 4.0 * logits.numel() * 4, fused, torch_fused),
        (
            "adamw", 0, 7.0 * p.numel() * 4, lambda: ops.adamw(p, m, s, d, scalars, 0.9, 0.95, 1e-8, 0.1),
            adam.step,
        ),
        ("gradient norm", 0, p.numel() * 4.0, lambda: ops.norm_partials(torch.empty(1024), p), lambda: torch.linalg.vector_norm(p)),
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
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ops.set_threads(args.threads)
    cases = matmul_cases() + attention_cases() + row_cases()
    rows: list[tuple[str, float, float, float, float]] = []
    for name, flops, size, ours, other in cases:
        repeats = max(1, int(0.02 / max(1e-6, seconds(ours, 1))))
        seconds(other, 1)
        times = [(seconds(ours, repeats), seconds(other, repeats)) for _ in range(args.rounds)]
        rows.append((name, flops, size, *(statistics.median(t) for t in zip(*times, strict=True))))
    source = torch.ones(1 << 27)  # written, so that the pages are real and not one shared page of zeros
    target = torch.empty_like(source)
    copy = 2.0 * source.numel() * 4 / min(seconds(lambda: target.copy_(source), 1) for _ in range(5))
    peak = max(flops / min(a, b) for _, flops, _, a, b in rows)
    print(
        f"Limits of this run: {peak / 1e9:.0f} GFLOP/s (fastest product of either side), {copy / 1e9:.1f} GB/s (copy).\n"
    )
    print("| op | samebits | PyTorch | share of the limit | ratio |\n|---|---|---|---|---|")
    for name, flops, size, mine, other in rows:
        work, limit, unit = (flops, peak, "GFLOP/s") if flops else (size, copy, "GB/s")
        print(
            f"| {name} | {work / mine / 1e9:.1f} {unit} | {work / other / 1e9:.1f} | {work / mine / limit:.2f} | {other / mine:.2f} |"
        )


if __name__ == "__main__":
    main()
