"""Products and attention in digits: how fast, and how close to float64.

    python -m benchmarks.digits --threads 1 --rounds 15
    python -m benchmarks.digits --errors

Each row's sides run one after another, round by round; a cell is the best of the rounds, since other programs only add
time. Cutting of activations and gradients is counted; weights were cut before, as in training, where they are cut once
per step. PyTorch's sides are fp32 and bf16 on the same operands. The limit is the rate of the dot product instruction
in registers (peak_digits.cpp), one product for int8x1, three for int8x3.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.table import header, write
from cuda_ops import ops, runtime

TIERS = ("int8x1", "int8x3")
SHAPES = [
    ("4x128 fc", 4096, 512, 128),
    ("6x384 fc", 2048, 1536, 384),
    ("124M qkv", 1024, 2304, 768),
    ("124M mlp.proj", 1024, 768, 3072),
    ("124M lm head", 512, 50304, 768),
]
HEADS = [("4x128", 16, 256, 4, 32), ("6x384", 8, 256, 6, 64), ("124M", 1, 1024, 12, 64)]
Side = Callable[[], object]


def best(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """Seconds of each side's fastest call, the sides in turn; of one thread, its own time on the CPU."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    found = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, call in sides.items():
            began = clock()
            call()
            found[name] = min(found[name], clock() - began)
    return found


def kept(matrix: Tensor, transposed: bool, tier: str) -> Tensor:
    rows, k = matrix.shape[::-1] if transposed else matrix.shape
    operand = torch.zeros(ops.digits_bytes(rows, k, tier), dtype=torch.uint8)
    ops.digits(operand, matrix, transposed, tier)
    return operand


def product_sides(layout: str, m: int, n: int, k: int) -> dict[str, Side]:
    """A layer's forward pass (nt), its input's gradient (nn) or its weight's (tn), of m tokens, n outputs, k inputs."""
    x, w, y = torch.randn(m, k), 0.02 * torch.randn(n, k), torch.randn(m, n)
    dx, dw = torch.empty(m, k), torch.zeros(n, k)
    out, a, b = {"nt": (y, x, w), "nn": (dx, y, w), "tn": (dw, y, x)}[layout]
    sides: dict[str, Side] = {"fp32": lambda: ops.matmul(out, a, b, layout=layout)}
    for tier in TIERS:
        if layout == "tn":
            sides[tier] = partial(ops.matmul_digits, out, a, b, None, "tn", False, tier, 1024)
        else:
            operand = kept(w, layout == "nn", tier)
            sides[tier] = partial(ops.matmul_kept_digits, out, a, operand, None, tier)
    left, right = (a.t() if layout == "tn" else a), (b.t() if layout == "nt" else b)
    sides["torch fp32"] = lambda: torch.mm(left, right)
    low, lower = left.bfloat16(), right.bfloat16()
    sides["torch bf16"] = lambda: torch.mm(low, lower)
    return sides


def attention_sides(b: int, t: int, h: int, size: int) -> dict[str, Side]:
    """Forward and backward."""
    qkv, dout = torch.randn(b, t, 3 * h * size), torch.randn(b, t, h * size)
    out, dqkv = torch.empty_like(dout), torch.empty_like(qkv)
    row_max, row_sum = torch.empty(b, h, t), torch.empty(b, h, t)

    def fp32() -> None:
        ops.attention_forward(out, row_max, row_sum, qkv, h)
        ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, h)

    def digits(tier: str) -> None:
        ops.attention_digits_forward(out, row_max, row_sum, qkv, h, tier)
        ops.attention_digits_backward(dqkv, dout, out, qkv, row_max, row_sum, h, tier)

    return {"fp32": fp32, **{tier: partial(digits, tier) for tier in TIERS}}


def peak(threads: int) -> float:
    """10^9 operations of dot products per second in registers, two for each multiplication."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak_digits.cpp")
        subprocess.run(["c++", "-O2", "-march=native", "-fopenmp", "-shared", "-fPIC", source, "-o", path], check=True)
        run = ctypes.CDLL(str(path)).dot_rounds
        run.restype = ctypes.c_double
        sink, rates = (ctypes.c_int32 * 256)(), list[float]()
        clock = time.thread_time if threads == 1 else time.perf_counter
        for _ in range(20):
            began = clock()
            done = run(ctypes.c_int64(200_000), threads, sink)
            rates.append(done / (clock() - began) / 1e9)
    return float(max(rates))


def speeds(threads: int, rounds: int, only: str) -> list[str]:
    runtime.set_threads(threads)
    torch.set_num_threads(threads)
    limit = peak(threads)
    lines = [header(threads, f"best of {rounds} interleaved rounds"), ""]
    lines += [
        f"Dot products in registers: {limit:,.0f} GOP/s, so the limits are {limit:,.0f} and {limit / 3:,.0f}.",
        "",
    ]
    columns = ["fp32", *TIERS, "torch fp32", "torch bf16"]
    lines += [
        f"| GFLOP/s of the fp32 product | {' | '.join(columns)} | int8x1 / fp32 | int8x3 / fp32 |",
        "|---" * 8 + "|",
    ]
    for name, m, n, k in [shape for shape in SHAPES if only in shape[0]]:
        for layout in ("nt", "nn", "tn"):
            found = best(product_sides(layout, m, n, k), rounds)
            cells = [f"{2e-9 * m * n * k / found[side]:,.0f}" for side in columns]
            ratios = [f"{found['fp32'] / found[tier]:.2f}" for tier in TIERS]
            lines.append(f"| {name} {layout} {m}×{n}×{k} | {' | '.join(cells + ratios)} |")
    lines += ["", "| attention, ms | fp32 | int8x1 | int8x3 | int8x1 / fp32 | int8x3 / fp32 |", "|---" * 6 + "|"]
    for name, *sizes in [head for head in HEADS if only in head[0]]:
        found = best(attention_sides(*sizes), rounds)
        cells = [f"{1e3 * seconds:.2f}" for seconds in found.values()]
        ratios = [f"{found['fp32'] / found[tier]:.2f}" for tier in TIERS]
        lines.append(f"| {name} {'×'.join(map(str, sizes))} | {' | '.join(cells + ratios)} |")
    return lines


# ---------------------------------------------------------------- errors

ODD = [5, 130, 260, 390, 520, 700]  # the columns of outliers


def tf32(x: Tensor) -> Tensor:
    """Rounded to 11 bits, ties to even."""
    bits = x.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def e4m3(x: Tensor) -> Tensor:
    """8-bit floats under a power of two for each block of 128."""
    blocks = x.view(x.shape[0], -1, 128)
    power = torch.exp2(torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-38))))
    return ((blocks / power * 256).to(torch.float8_e4m3fn).float() / 256 * power).view_as(x)


def in_digits(tier: str, x: Tensor, w: Tensor) -> Tensor:
    out = torch.empty(x.shape[0], w.shape[0])
    ops.matmul_digits(out, x, w, None, "nt", False, tier)
    return out.double()


def errors() -> list[str]:
    """Relative errors of a product, K = 768, against float64."""
    generator = torch.Generator().manual_seed(0)
    w, normal = 0.02 * torch.randn(768, 768, generator=generator), torch.randn(1024, 768, generator=generator)
    torch.manual_seed(0)
    outliers = normal.clone()
    outliers[:, ODD] *= 60
    heavy = torch.distributions.StudentT(3.0).sample((1024, 768))
    cases = {"normal": normal, "heavy tails (Student t, 3)": heavy, "six columns 60 times the rest": outliers}
    rounded = {"TF32": tf32, "bf16": lambda x: x.bfloat16().float(), "e4m3, 1 × 128": e4m3}
    columns = ["fp32", *rounded, *TIERS]
    lines = [f"| activations | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, x in cases.items():
        exact, found = x.double() @ w.double().t(), {}
        for side, cut in rounded.items():
            found[side] = cut(x).double() @ cut(w).double().t()
        plain = torch.empty(1024, 768)
        ops.matmul(plain, x, w)
        found |= {"fp32": plain.double()} | {tier: in_digits(tier, x, w) for tier in TIERS}
        cells = [f"{((found[side] - exact).norm() / exact.norm()).item():.1e}" for side in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Products in digits: speed, or with --errors relative errors.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="shapes whose name has this in it")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args = parser.parse_args()
    write(errors() if args.errors else speeds(args.threads, args.rounds, args.only), args.out)


if __name__ == "__main__":
    main()
