"""Products and attention in digits on a GPU, beside our fp32 and PyTorch's fp32, TF32, bf16 and int8, in one run.

    python -m benchmarks.gpu_digits
    python -m benchmarks.gpu_digits --model 1558M --rounds 3
    python -m benchmarks.gpu_digits --device cpu --model tiny --tokens 128     (exercises the program where there is no GPU)

TFLOP/s of the fp32 product that is replaced; cutting of activations and gradients is counted, weights are kept as in
training. The limit is the data sheet's on compute capability 9.0, whose products run on wgmma, else measured: mma.sync in
registers (benchmarks/peak_mma.cu). int8x3 can have a third of it. A last
column checks bits: fingerprints of what is computed on the device and on the CPU, of a product in int8x3 its first 1024
rows, of attention one sequence in both tiers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as functional

from benchmarks.gpu import measure_peak, timer
from benchmarks.gpu_cases import MODELS, lm_head_rows, products
from benchmarks.predict_digits import PEAK
from benchmarks.table import write
from cuda_ops import ops
from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.recipe import Gpt as Config

TIERS = ("int8x3", "int8x1")
Calls = dict[str, Callable[[], object]]


def our_product(tier: str, layout: str, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> Callable[[], object]:
    """As training makes it: weights cut before, gradients of weights from two operands that are not."""
    if layout == "tn":
        return partial(ops.matmul_digits, out, a, b, None, layout, True, tier, 1024)
    n, k = out.shape[1], a.shape[1]
    kept = torch.zeros(ops.digits_bytes(n, k, tier), dtype=torch.uint8, device=a.device)
    ops.digits(kept, b, layout == "nn", tier)
    return partial(ops.matmul_kept_digits, out, a, kept, None, tier)


def torch_product(layout: str, a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    left, right = (a.t() if layout == "tn" else a), (b.t() if layout == "nt" else b)
    return lambda: left @ right


def product_calls(layout: str, m: int, n: int, k: int) -> Calls:
    a = torch.randn((k, m) if layout == "tn" else (m, k))
    b = 0.02 * torch.randn((n, k) if layout == "nt" else (k, n))
    out = torch.zeros(m, n)
    calls: Calls = {tier: our_product(tier, layout, a, b, out) for tier in TIERS}
    calls["fp32"] = partial(ops.matmul, out, a, b, layout=layout, accumulate=layout == "tn")
    calls["torch fp32"] = torch_product(layout, a, b)

    def tf32() -> None:
        torch.backends.cuda.matmul.allow_tf32 = True
        calls["torch fp32"]()
        torch.backends.cuda.matmul.allow_tf32 = False

    calls["torch TF32"] = tf32
    calls["torch bf16"] = torch_product(layout, a.bfloat16(), b.bfloat16())
    left, right = torch.ones(m, k, dtype=torch.int8), torch.ones(n, k, dtype=torch.int8)
    calls["torch int8"] = lambda: torch._int_mm(left, right.t())
    return calls


def attention_calls(config: Config, tokens: int) -> dict[str, Calls]:
    width, heads = config.channels, config.heads
    t = min(tokens, config.context)
    b, size = tokens // t, width // heads
    qkv, dout, out = torch.randn(b, t, 3 * width), torch.randn(b, t, width), torch.empty(b, t, width)
    dqkv, row_max, row_sum = torch.empty_like(qkv), torch.empty(b, heads, t), torch.empty(b, heads, t)
    forward: Calls = {"fp32": partial(ops.attention_forward, out, row_max, row_sum, qkv, heads)}
    forward |= {x: partial(ops.attention_digits_forward, out, row_max, row_sum, qkv, heads, x) for x in TIERS}
    forward["fp32"]()
    backward: Calls = {"fp32": partial(ops.attention_backward, dqkv, dout, out, qkv, row_max, row_sum, heads)}
    for x in TIERS:
        backward[x] = partial(ops.attention_digits_backward, dqkv, dout, out, qkv, row_max, row_sum, heads, x)
    for name, kind in (("torch fp32", torch.float32), ("torch bf16", torch.bfloat16)):
        q, k, v = (p.reshape(b, t, heads, size).transpose(1, 2).to(kind).contiguous() for p in qkv.split(width, dim=2))
        leaves = [p.clone().requires_grad_() for p in (q, k, v)]
        kept = functional.scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], is_causal=True)
        gradient = torch.randn_like(kept)
        forward[name] = partial(functional.scaled_dot_product_attention, q, k, v, is_causal=True)
        backward[name] = partial(torch.autograd.grad, kept, leaves, gradient, retain_graph=True)
    return {"attention, output": forward, "attention, gradients": backward}


def measured(calls: Calls, rounds: int) -> dict[str, float]:
    """Median seconds of each call over interleaved rounds; one that PyTorch refuses here is left out."""
    timers = {}
    for name, call in calls.items():
        try:
            timers[name] = timer([call])
        except RuntimeError as error:
            if not name.startswith("torch"):
                raise
            print(f"{name}: {str(error).splitlines()[0]}")
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, one in timers.items():
            times[name].append(one())
    return {name: statistics.median(found) for name, found in times.items()}


def same_bits(layout: str, m: int, n: int, k: int) -> bool:
    """Whether int8x3 on the device gives the CPU's bits, of at most 1024 rows."""
    m = min(m, 1024)
    a = torch.randn((k, m) if layout == "tn" else (m, k))
    b = torch.randn((n, k) if layout == "nt" else (k, n))
    found = []
    for device in ("cpu", a.device):
        out = torch.zeros(m, n, device=device)
        ops.matmul_digits(out, a.to(device), b.to(device), None, layout, True, "int8x3", 1024 if layout == "tn" else 0)
        found.append(ops.fingerprint(out))
    return found[0] == found[1]


def attention_bits(config: Config, tokens: int) -> list[bool]:
    """The same of attention's output and of its gradients, of one sequence in both tiers."""
    t, width, heads = min(tokens, config.context), config.channels, config.heads
    qkv, dout = torch.randn(1, t, 3 * width), torch.randn(1, t, width)
    found = []
    for device in ("cpu", qkv.device):
        for tier in TIERS:
            x, dy = qkv.to(device), dout.to(device)
            out, dqkv = torch.empty_like(dy), torch.empty_like(x)
            row_max, row_sum = torch.empty(2, 1, heads, t, device=device)
            ops.attention_digits_forward(out, row_max, row_sum, x, heads, tier)
            ops.attention_digits_backward(dqkv, dy, out, x, row_max, row_sum, heads, tier)
            found.append((ops.fingerprint(out), ops.fingerprint(dqkv)))
    return [all(found[i][part] == found[i + 2][part] for i in range(2)) for part in range(2)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Digits on a GPU beside PyTorch.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", choices=tuple(MODELS), default="124M")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU; --device cpu exercises this program without one")
    torch.set_default_device(args.device)
    if args.device == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    peak, limit = float("nan"), "no limit on a CPU"
    if args.device == "cuda" and torch.cuda.get_device_capability() == (9, 0):
        peak, limit = PEAK, "limit of 8-bit integers by the data sheet"
    elif args.device == "cuda":
        peak, limit = measure_peak("peak_mma", 1 << 10), "mma.sync on 8-bit integers"
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    config = MODELS[args.model]
    names = ("int8x3", "int8x1", "fp32", "torch fp32", "torch TF32", "torch bf16", "torch int8")
    lines = [
        f"{name}, torch {torch.__version__}, {args.tokens} tokens; {limit}: {peak / 1e12:,.0f} TOP/s.", "",
        f"| {args.model}, TFLOP/s | {' | '.join(names)} | int8x3 of its limit | int8x1 | int8x3 / bf16 | the CPU's bits |",
        "|---" * (len(names) + 5) + "|",
    ]  # fmt: skip
    for what, layout, m, n, k, _ in products(config, args.tokens, lm_head_rows(config, args.tokens, args.device)):
        times = measured(product_calls(layout, m, n, k), args.rounds)
        rates = {each: 2.0 * m * n * k / seconds for each, seconds in times.items()}
        row = [f"{rates[each] / 1e12:,.1f}" if each in rates else "–" for each in names]
        row += [f"{3 * rates['int8x3'] / peak:.2f}", f"{rates['int8x1'] / peak:.2f}"]
        row += [f"{rates['int8x3'] / rates['torch bf16']:.2f}", "yes" if same_bits(layout, m, n, k) else "NO"]
        lines.append(f"| {what} {layout} {m}×{n}×{k} | {' | '.join(row)} |")
    kinds = ("int8x3", "int8x1", "fp32", "torch fp32", "torch bf16")
    lines += ["", f"| {args.model}, ms | {' | '.join(kinds)} | the CPU's bits |", "|---" * (len(kinds) + 2) + "|"]
    bits = attention_bits(config, args.tokens)
    for (what, calls), same in zip(attention_calls(config, args.tokens).items(), bits, strict=True):
        times = measured(calls, args.rounds)
        cells = [f"{times[each] * 1e3:.3f}" for each in kinds]
        lines.append(f"| {what} | {' | '.join(cells)} | {'yes' if same else 'NO'} |")
    write(lines, args.out)


if __name__ == "__main__":
    exit_on_user_error(main)
