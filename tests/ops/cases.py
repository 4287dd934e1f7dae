"""python -m tests.ops.cases out.safetensors [--device cuda] [--large]

Runs every op on odd shapes and hostile values and writes all its tensors, for a comparison of backends bit for bit
(test_backends.py, and the proof on a GPU). Inputs are made on the CPU, the same for every backend.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cuda_ops import ops, runtime
from tests.bits import hostile

Case = tuple[str, str, tuple[Any, ...]]
i32, i64 = torch.int32, torch.int64


def empty(*shape: int) -> torch.Tensor:
    """NaN, so that an element that is not written shows."""
    return torch.full(shape, torch.nan)


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The same values, beginning 4 bytes after a 16-byte line."""
    return torch.cat([torch.zeros(1), x.reshape(-1)])[1:].view(x.shape)


def ids(limit: int, *shape: int) -> torch.Tensor:
    return torch.randint(limit, shape, generator=torch.Generator().manual_seed(limit), dtype=i32)


def element_cases() -> Iterator[Case]:
    for n in (0, 1, 3, 1023, 1024, 2053):
        a, b = hostile(n, seed=1) if n else empty(0), hostile(n, seed=2) if n else empty(0)
        for move in (torch.clone, shifted):
            yield "add", f"{n} {move.__name__}", (empty(n), move(a), move(b))
            yield "gelu_forward", f"{n} {move.__name__}", (empty(n), move(a))
            yield "gelu_backward", f"{n} {move.__name__}", (move(a), b, a)
            moments = (move(a * 0.1), move(b * 0.01), move((b * b).clamp(max=1e6)))
            for factor in (0.5, float("nan")):
                scalars = torch.tensor([1e-3, 0.4, 0.2])
                yield (
                    "adamw",
                    f"{n} {move.__name__} {factor}",
                    (*moments, a.clone(), torch.tensor([factor]), scalars, 0.9, 0.95, 1e-8, 0.1),
                )
    for totals in ((3.0, 0.5), (3.0, 7.0), (float("nan"), 7.0), (1.0, float("inf")), (3e38, 3e38)):
        yield "step_scalars", f"{totals}", (empty(2), empty(1), torch.tensor(totals), 2.5, 1.0)
    x = hostile(777, seed=3)
    yield "gelu_backward", "in place", (x, x, hostile(777, seed=4))
    yield "add", "in place", (x.clone(), x, x)
    every = torch.arange(-(2**31), 2**31, 2**17 + 1, dtype=i64).to(i32).view(torch.float32)
    for name in ops.FUNCTIONS:
        turns = torch.arange(0, 2**24, 1021).float() * 2**-24
        yield (
            "unary",
            name,
            (empty(len(every)), every, name) if "turn" not in name else (empty(len(turns)), turns, name),
        )


def row_cases() -> Iterator[Case]:
    for b, t, c in (
        (1, 1, 1),
        (3, 70, 5),
        (2, 33, 68),
        (1, 32, 64),
        (2, 1, 300),
        (1, 3, 1030),
        (1, 1, 2050),
        (1, 65, 36),
        (2, 0, 8),
    ):
        x, dout = hostile(b, t, c, seed=5).clamp(-99, 99) if t else empty(b, t, c), torch.zeros(b, t, c)
        if t:
            dout = hostile(b, t, c, seed=6).clamp(-99, 99)
        weight, bias = hostile(c, seed=7).clamp(-9, 9), hostile(c, seed=8).clamp(-9, 9)
        mean, rstd = torch.empty(b, t), torch.empty(b, t)
        ops.layernorm_forward(torch.empty_like(x), mean, rstd, x, weight, bias)
        for move in (torch.clone, shifted):
            name = f"{b}x{t}x{c} {move.__name__}"
            yield "bias_backward", name, (hostile(c, seed=9), move(dout))
            if not t:
                continue
            yield "layernorm_forward", name, (empty(b, t, c), empty(b, t), empty(b, t), move(x), weight, bias)
            for residual in (None, hostile(b, t, c, seed=10)):
                yield "layernorm_backward", f"{name} {residual is None}", (
                    empty(b, t, c), weight.clone(), bias.clone(), move(dout), residual, x, weight, mean, rstd,
                )  # fmt: skip
        yield "layernorm_backward", f"{b}x{t}x{c} in place", (
            dout, weight.clone(), bias.clone(), dout, x.clone(), x, weight, mean, rstd,
        )  # fmt: skip
        residual = x.clone() * 2
        yield "layernorm_backward", f"{b}x{t}x{c} onto the residual", (
            residual, weight.clone(), bias.clone(), dout.clone(), residual, x, weight, mean, rstd,
        )  # fmt: skip


def embedding_cases() -> Iterator[Case]:
    for b, t, c, v in (
        (1, 1, 1, 1),
        (3, 70, 5, 6),
        (2, 100, 36, 200),
        (5, 30, 520, 2),
        (4, 64, 130, 9),
        (1, 2100, 4, 50),
    ):
        tokens, dout = ids(v, b, t), hostile(b, t, c, seed=11)
        wte, wpe = hostile(v, c, seed=12), hostile(t + 3, c, seed=13)
        name = f"{b}x{t}x{c} of {v}"
        yield "embedding_forward", name, (empty(b, t, c), tokens, wte, wpe, 3)
        yield "embedding_backward", name, (wte.clone(), wpe.clone(), dout, tokens)
        rows = torch.arange(0, v, 2, dtype=i32)
        yield "embedding_add", name, (shifted(wte), wte[: len(rows)].contiguous(), rows)
        fewer = torch.cat([rows[: v // 3], torch.full((v - v // 3,), -1, dtype=i32)])
        yield "embedding_add", name + " and -1", (wte.clone(), shifted(wte), fewer)


def loss_cases() -> Iterator[Case]:
    for n, v, padded in ((3, 5, 5), (2, 1, 4), (4, 65, 68), (2, 2048, 2048), (2, 2049, 2052), (1, 4099, 4101)):
        logits, targets = hostile(n, padded, seed=14).clamp(-200, 200), ids(v, n)
        for move in (torch.clone, shifted):
            name = f"{n}x{v} of {padded} {move.__name__}"
            yield "cross_entropy_forward", name, (empty(n), move(logits), targets, v)
            yield "cross_entropy_fused", name, (empty(n), move(logits), targets, 0.037, v)
    for n in (0, 1, 2048, 2050, 5000):
        yield "chain_sum", f"{n}", (torch.tensor([0.3]), torch.randn(n, generator=torch.Generator().manual_seed(n)))
    for v, padded in ((1, 1), (5, 8), (65, 65), (1000, 1003), (5000, 5000)):
        logits, uniforms = hostile(3, padded, seed=15).clamp(-9, 9), torch.tensor([0.0, 0.5, 0.9999999])
        logits[:, ::3] = 0.0  # ties, and zeros of both signs
        for temperature, top_k in ((0.0, 0), (0.8, 0), (1.0, 7), (1.3, 1), (0.7, 999), (0.9, 2048), (1.1, 2049)):
            yield "sample", f"{v} at {temperature} top {top_k}", (
                torch.zeros(3, dtype=i32), logits, uniforms, v, temperature, top_k,
            )  # fmt: skip


def sum_cases(large: bool) -> Iterator[Case]:
    for n, chunk in ((1, 1), (200, 7), (9001, 4096), (4097, 4096), (130, 64), (0, 4)):
        x = hostile(n, seed=16).clamp(-1e3, 1e3) if n else empty(0)
        for move in (torch.clone, shifted):
            yield "norm_partials", f"{n} by {chunk} {move.__name__}", (empty(-(-n // chunk)), move(x), chunk)
    # Two levels of blocks of 2048 in tree_sum's largest case.
    for n in (0, 1, 2, 3, 2047, 2048, 2049, 10243, *([2048 * 2048 + 2049] if large else [])):
        yield "tree_sum", f"{n}", (empty(1), torch.randn(n, generator=torch.Generator().manual_seed(n)))
    for n in (0, 1, 8191, 8193, 20000):
        x, out = hostile(n, seed=17) if n else empty(0), torch.zeros(1, dtype=i64)
        yield "fingerprint_into", f"{n}", (out.clone(), x, 2**40 + 3)
        yield "fingerprint_into", f"{n} words", (out.clone(), x.view(i32), 0)
        yield "first_nonfinite_into", f"{n}", (out.clone(), x)
        if n > 2:
            for at in ((n - 1,), (n - 1, n // 2), (0,)):
                bad = x.clone()
                bad[list(at)] = torch.tensor([torch.inf, torch.nan])[: len(at)]
                yield "first_nonfinite_into", f"{n} at {at}", (out.clone(), bad)
    for n in (0, 1, 2, 3, 5, 1025):
        for offset in (0, 1, 6, 2**33 + 3):
            yield "fill_normal", f"{n} from {offset}", (empty(n), 2**63 + 5, 1, offset, 0.25, 0.02)
            yield "fill_uniform", f"{n} from {offset}", (shifted(empty(n)), -7, 3, offset)


def product_cases() -> Iterator[Case]:
    for m, n, k in ((1, 1, 1), (3, 5, 9), (33, 68, 41), (130, 132, 36), (1, 70, 129), (9, 4, 0), (300, 9, 901)):
        for layout in ("nt", "nn", "tn"):
            left = torch.zeros(k, m) if layout == "tn" else torch.zeros(m, k)
            right = torch.zeros(n, k) if layout == "nt" else torch.zeros(k, n)
            if k:
                left, right = hostile(*left.shape, seed=18), hostile(*right.shape, seed=19)
            yield "matmul", f"{layout} {m}x{n}x{k}", (empty(m, n), left, right, hostile(n, seed=20), layout, False)
            yield "matmul", f"{layout} {m}x{n}x{k} more", (hostile(m, n, seed=21), left, right, None, layout, True)
    for b, t, c, h in ((1, 1, 2, 2), (2, 33, 10, 2), (1, 70, 64, 1), (1, 130, 24, 3)):
        qkv, dout = hostile(b, t, 3 * c, seed=22).clamp(-4, 4), hostile(b, t, c, seed=23).clamp(-9, 9)
        out, row_max, row_sum = torch.empty(b, t, c), torch.empty(b, h, t), torch.empty(b, h, t)
        ops.attention_forward(out, row_max, row_sum, qkv, h)
        name = f"{b}x{t}x{c} in {h}"
        yield "attention_forward", name, (empty(b, t, c), empty(b, h, t), empty(b, h, t), qkv, h)
        yield "attention_backward", name, (empty(b, t, 3 * c), dout, out, qkv, row_max, row_sum, h)
        keys, values = (hostile(b, h, t + 5, c // h, seed=s).clamp(-4, 4) for s in (24, 25))
        yield "attention_cached", name, (empty(b, t, c), keys, values, qkv, h, 4)


@dataclass(frozen=True)
class Cut:
    """An argument: the rows of a matrix in digits, cut where they are used."""

    matrix: torch.Tensor
    tier: str

    def on(self, device: str) -> torch.Tensor:
        rows, k = self.matrix.shape
        kept = torch.zeros(ops.digits_bytes(rows, k, self.tier), dtype=torch.uint8, device=device)
        ops.digits(kept, self.matrix.to(device), False, self.tier)
        return kept


def digit_cases() -> Iterator[Case]:
    for tier in ("int8x3", "int8x1"):
        a, b = hostile(33, 150, seed=26), hostile(20, 150, seed=27)
        kept = torch.zeros(ops.digits_bytes(20, 150, tier), dtype=torch.uint8)
        yield "digits", tier, (kept.clone(), b, False, tier)
        yield "matmul_kept_digits", tier, (empty(33, 20), a, Cut(b, tier), None, tier)
        left, right = a.t().contiguous(), b.t().contiguous()
        yield "matmul_digits", tier, (hostile(33, 20, seed=28), left, right, None, "tn", True, tier, 70)
        left, right = hostile(18, 643, seed=33), hostile(9, 643, seed=34)  # six blocks
        yield "matmul_digits", f"{tier} long", (empty(18, 9), left, right, None, "nt", False, tier, 0)
        t = 145  # beyond a block of keys, and no multiple of a panel
        qkv, dout = hostile(1, t, 36, seed=29).clamp(-4, 4), hostile(1, t, 12, seed=30).clamp(-9, 9)
        out, row_max, row_sum = torch.empty(1, t, 12), torch.empty(1, 2, t), torch.empty(1, 2, t)
        ops.attention_digits_forward(out, row_max, row_sum, qkv, 2, tier)
        yield "attention_digits_forward", tier, (empty(1, t, 12), empty(1, 2, t), empty(1, 2, t), qkv, 2, tier)
        yield "attention_digits_backward", tier, (empty(1, t, 36), dout, out, qkv, row_max, row_sum, 2, tier)
        keys, values = (hostile(1, 2, 150, 6, seed=s).clamp(-4, 4) for s in (31, 32))
        some = qkv[:, :21].contiguous()  # from key 120 on: 16 queries on both sides of a block's end
        yield "attention_digits_cached", tier, (empty(1, 21, 12), keys, values, some, 2, 120, tier)


def cases(large: bool) -> Iterator[Case]:
    yield from element_cases()
    yield from row_cases()
    yield from embedding_cases()
    yield from loss_cases()
    yield from sum_cases(large)
    yield from product_cases()
    yield from digit_cases()


def on(device: str, arguments: tuple[Any, ...]) -> list[Any]:
    """The arguments on a device: one tensor given twice stays one, and a view keeps its distance from a 16-byte line."""
    moved: dict[int, torch.Tensor] = {}
    for x in arguments:
        if isinstance(x, torch.Tensor) and id(x) not in moved:
            shift = x.data_ptr() % 16 // x.element_size() if x.numel() else 0
            buffer = torch.zeros(x.numel() + shift, dtype=x.dtype, device=device)
            moved[id(x)] = buffer[shift:].view(x.shape).copy_(x)
    others = (x.on(device) if isinstance(x, Cut) else x for x in arguments)
    return [moved[id(x)] if isinstance(x, torch.Tensor) and id(x) in moved else x for x in others]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--large", action="store_true")
    args = parser.parse_args()
    results = {}
    runtime.set_threads(2)
    for op, name, arguments in cases(args.large):
        own = on(args.device, arguments)
        getattr(ops, op)(*own)
        for i, x in enumerate(own):
            if isinstance(x, torch.Tensor):
                results[f"{op} {name} argument {i}"] = x.cpu().clone()
    save_file(results, args.out)
    print(f"{runtime.isa()} on {args.device}: {len(results)} tensors")


if __name__ == "__main__":
    main()
