"""Each op on a GPU beside PyTorch's (fp32, TF32 off) and beside what the GPU can do, in one run.

    python -m benchmarks.gpu --out docs/evidence/ops.md
    python -m benchmarks.gpu --device cpu --models tiny --tokens 64     (exercises the program where there is no GPU)

The limits are measured here: the FMA rate of a kernel that does nothing else (benchmarks/peak.cu) and the bandwidth of a large
copy. The limit of an op is the longer of its operations at that rate and its bytes, each moved once, at that bandwidth;
its share is the limit over the time. Medians over interleaved rounds, timed by events on the GPU.

Left out: chain_sum, tree_sum and step_scalars (a few thousand numbers at most: a launch, not a bandwidth), first_nonfinite (only where a
step has failed), sample (once per token of a text), cross_entropy_forward (evaluation; the first pass of the fused op) and
unary (for the proof only). Fill has no limit of bandwidth: its integer arithmetic is what takes time, once per run.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as functional

from benchmarks.table import write
from cuda_ops import ops
from cuda_ops.errors import UserError, exit_on_user_error
from cuda_ops.toolkit import find_nvcc
from pipeline.base.files import write_json

# Width, heads and vocabulary (padded) of a model; all else follows.
MODELS = {"124M": (768, 12, 50304), "1558M": (1600, 25, 50304), "tiny": (64, 4, 256)}


@dataclass(frozen=True)
class Case:
    """One op: what it must do at least, ours, and PyTorch's. kind: matmul, attention, memory (bound by bandwidth) or fill."""

    kind: str
    name: str
    operations: float
    bytes: float
    ours: Callable[[], object]
    torch: Callable[[], object]


@dataclass(frozen=True)
class Row:
    """What was measured of a case, as written to --json: seconds; share = limit / ours, ratio = torch / ours."""

    kind: str
    op: str
    operations: float
    bytes: float
    limit: float
    ours: float
    torch: float
    share: float
    ratio: float


@dataclass(frozen=True)
class Limits:
    operations: float  # per second
    bytes: float

    def seconds(self, operations: float, size: float) -> float:
        return max(operations / self.operations, size / self.bytes)


def products(width: int, vocabulary: int, tokens: int) -> list[tuple[str, str, int, int, int]]:
    """(what, layout, M, N, K) of the products of one training step: output, gradient of the input, of the weight."""
    layers = [("qkv", 3 * width, width), ("projection", width, width), ("mlp in", 4 * width, width)]
    layers += [("mlp out", width, 4 * width), ("lm head", vocabulary, width)]
    found = []
    for name, out, into in layers:
        found.append((name, "nt", tokens, out, into))
        found.append((f"{name}, d input", "nn", tokens, into, out))
        found.append((f"{name}, d weight", "tn", out, into, tokens))
    return found


def matmul_case(model: str, what: str, layout: str, m: int, n: int, k: int) -> Case:
    a = torch.randn((k, m) if layout == "tn" else (m, k))
    b = torch.randn((n, k) if layout == "nt" else (k, n))
    out, accumulate = torch.zeros(m, n), layout == "tn"  # weight gradients are added to

    def other() -> None:
        if accumulate:
            out.addmm_(a.t(), b)
        else:
            torch.mm(a, b.t() if layout == "nt" else b, out=out)

    size = 4.0 * (m * k + k * n + m * n * (2 if accumulate else 1))
    name = f"{model} {what} ({layout} {m}×{n}×{k})"
    return Case(
        "matmul",
        name,
        2.0 * m * n * k,
        size,
        lambda: ops.matmul(out, a, b, layout=layout, accumulate=accumulate),
        other,
    )


def attention_cases(model: str, width: int, heads: int, tokens: int) -> list[Case]:
    t = min(tokens, 1024)
    b, size = tokens // t, width // heads
    qkv, dout, out = torch.randn(b, t, 3 * width), torch.randn(b, t, width), torch.empty(b, t, width)
    dqkv, row_max, row_sum = torch.empty_like(qkv), torch.empty(b, heads, t), torch.empty(b, heads, t)
    q, k, v = (p.reshape(b, t, heads, size).transpose(1, 2).contiguous() for p in qkv.split(width, dim=2))
    leaves = [p.clone().requires_grad_() for p in (q, k, v)]
    gradient = dout.view(b, t, heads, size).transpose(1, 2).contiguous()
    kept = functional.scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], is_causal=True)
    product = float(b * heads * t * (t + 1) * size)  # 2 operations on half of T x T
    rows, statistics_ = 4.0 * b * t * width, 8.0 * b * heads * t
    ops.attention_forward(out, row_max, row_sum, qkv, heads)
    new, decoded, last = qkv[:, -1:].contiguous(), torch.empty(b, 1, width), q[:, :, -1:].contiguous()
    keys, values = k.clone(), v.clone()
    return [
        Case(
            "attention",
            f"{model} attention forward ({b}×{t})",
            2 * product,
            4 * rows + statistics_,
            lambda: ops.attention_forward(out, row_max, row_sum, qkv, heads),
            lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        ),
        Case(
            "attention",
            f"{model} attention backward ({b}×{t})",
            5 * product,
            8 * rows + statistics_,
            lambda: ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, heads),
            lambda: torch.autograd.grad(kept, leaves, gradient, retain_graph=True),
        ),
        Case(
            "memory",
            f"{model} attention cached ({b}×1 after {t - 1})",
            4.0 * b * t * width,
            2 * rows,
            lambda: ops.attention_cached(decoded, keys, values, new, heads, t - 1),
            lambda: functional.scaled_dot_product_attention(last, k, v),
        ),
    ]


def row_cases(model: str, width: int, vocabulary: int, tokens: int) -> list[Case]:
    t = min(tokens, 1024)
    b, c = tokens // t, width
    x, y, g = (torch.randn(b, t, c) for _ in range(3))
    w, bias, dw, db = torch.randn(c), torch.randn(c), torch.zeros(c), torch.zeros(c)
    mean, rstd = torch.empty(b, t), torch.empty(b, t)
    logits, losses = torch.randn(tokens, vocabulary), torch.empty(tokens)
    targets = torch.randint(0, vocabulary, (tokens,), dtype=torch.int32)
    long_targets, leaf_logits = targets.long(), logits.clone().requires_grad_()
    tokens_in = targets.view(b, t)
    long_in = tokens_in.long()
    wte, wpe = torch.randn(vocabulary, c), torch.randn(t, c)
    n = 12 * c * c * 4  # four layers of parameters
    p, m, s, d = (torch.rand(n) for _ in range(4))
    factor, scalars = torch.ones(1), torch.tensor([1e-3, 0.1, 0.05])
    leaf = p.clone().requires_grad_()
    leaf.grad = d.clone()
    adam = torch.optim.AdamW([leaf], 1e-3, fused=True)
    lx, lw, lb = (z.clone().requires_grad_() for z in (x, w, bias))
    kept = functional.layer_norm(lx, (c,), lw, lb)
    ops.layernorm_forward(y, mean, rstd, x, w, bias)
    partials = torch.empty((n + 4095) // 4096)
    big, all_logits = 4.0 * x.numel(), 4.0 * logits.numel()
    distinct, places = torch.unique(targets, return_inverse=True)  # the rows of the embedding that have a gradient
    slots, rows, long_rows, long_slots = places.int().view(b, t), distinct.int(), distinct.long(), places.view(-1)
    dwte, dwpe, fingerprint = torch.zeros(len(rows), c), torch.zeros(t, c), torch.empty(1, dtype=torch.int64)
    some = 4.0 * dwte.numel()

    def torch_embedding_backward() -> None:
        dwte.index_add_(0, long_slots, g.view(-1, c))
        dwpe.add_(g.sum(0))

    def adamw() -> None:
        ops.adamw(p, m, s, d, factor, scalars, 0.9, 0.95, 1e-8, 0.1)

    def torch_cross_entropy() -> None:
        loss = functional.cross_entropy(leaf_logits, long_targets, reduction="sum")
        torch.autograd.grad(loss, leaf_logits)

    cases = [
        ("embedding", 2 * big, lambda: ops.embedding_forward(y, tokens_in, wte, wpe, 0), lambda: wte[long_in] + wpe),
        ("embedding backward", big + 2 * (some + 4.0 * t * c), lambda: ops.embedding_backward(dwte, dwpe, g, slots), torch_embedding_backward),
        ("embedding add", 3 * some, lambda: ops.embedding_add(wte, dwte, rows), lambda: wte.index_add_(0, long_rows, dwte)),
        ("layernorm forward", 2 * big, lambda: ops.layernorm_forward(y, mean, rstd, x, w, bias), lambda: functional.layer_norm(x, (c,), w, bias)),
        (
            "layernorm backward", 3 * big, lambda: ops.layernorm_backward(y, dw, db, g, None, x, w, mean, rstd),
            lambda: torch.autograd.grad(kept, (lx, lw, lb), g, retain_graph=True),
        ),
        ("gelu forward", 2 * big, lambda: ops.gelu_forward(y, x), lambda: functional.gelu(x, approximate="tanh")),
        ("gelu backward", 3 * big, lambda: ops.gelu_backward(y, g, x), lambda: torch.ops.aten.gelu_backward(g, x, approximate="tanh")),
        ("add", 3 * big, lambda: ops.add(y, x, g), lambda: torch.add(x, g, out=y)),
        ("bias backward", big, lambda: ops.bias_backward(db, g), lambda: g.sum((0, 1))),
        ("cross entropy + gradient", 2 * all_logits, lambda: ops.cross_entropy_fused(losses, logits, targets, 1.0, vocabulary), torch_cross_entropy),
        ("adamw", 28.0 * n, adamw, adam.step),
        ("gradient norm", 4.0 * n, lambda: ops.norm_partials(partials, p), lambda: torch.linalg.vector_norm(p)),
        ("fingerprint", 4.0 * n, lambda: ops.fingerprint_into(fingerprint, p), lambda: p.view(torch.int32).sum()),
    ]  # fmt: skip
    found = [Case("memory", f"{model} {name}", 0.0, size, ours, other) for name, size, ours, other in cases]
    fill = Case(
        "fill",
        f"{model} fill normal",
        0.0,
        4.0 * n,
        lambda: ops.fill_normal(d, 1, 2, 0, 0.0, 0.02),
        lambda: d.normal_(0.0, 0.02),
    )
    return [*found, fill]  # last: what it writes is read above


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Seconds per call, by events where there is a GPU."""
    if not torch.cuda.is_available():
        clock = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - clock) / repeats
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats


def measure(case: Case, rounds: int) -> tuple[float, float]:
    """Median seconds of ours and PyTorch's; rounds of about 20 ms, interleaved."""
    for function in (case.ours, case.torch):
        seconds(function, 2)
    repeats = max(1, int(0.02 / max(1e-6, seconds(case.ours, 1))))
    times = [(seconds(case.ours, repeats), seconds(case.torch, repeats)) for _ in range(rounds)]
    ours, other = (statistics.median(t) for t in zip(*times, strict=True))
    return ours, other


def compile_peak(folder: Path) -> ctypes.CDLL:
    nvcc = find_nvcc()
    if nvcc is None:
        raise UserError("the peak is measured with nvcc, which is not installed; install the CUDA toolkit")
    source, library = Path(__file__).parent / "peak.cu", folder / "peak.so"
    major, minor = torch.cuda.get_device_capability()
    command = [
        str(nvcc),
        "-O3",
        f"-arch=sm_{major}{minor}",
        "-shared",
        "-Xcompiler=-fPIC",
        str(source),
        "-o",
        str(library),
    ]
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(library))
    found.peak_launch.restype = ctypes.c_double
    return found


def measure_limits(device: str) -> Limits:
    source = torch.ones(1 << (28 if device == "cuda" else 24))  # written, so that its pages are real
    target = torch.empty_like(source)
    copy = 8.0 * source.numel() / min(seconds(lambda: target.copy_(source), 3) for _ in range(5))
    if device == "cpu":  # nothing in Python reaches the peak: the best product stands for it
        x = torch.randn(512, 512)
        return Limits(2.0 * 512**3 / min(seconds(lambda: x @ x, 3) for _ in range(5)), copy)
    blocks, steps, counted = 1 << 13, 1 << 12, [0.0]
    out = torch.empty(blocks * 256)
    with tempfile.TemporaryDirectory() as folder:
        library = compile_peak(Path(folder))

        def launch() -> None:
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            counted[0] = library.peak_launch(ctypes.c_void_p(out.data_ptr()), blocks, steps, stream)
            if counted[0] < 0:
                raise UserError("the kernel that measures the peak cannot be launched")

        best = min(seconds(launch, 2) for _ in range(7))
        return Limits(counted[0] / best, copy)


def row(case: Case, limits: Limits, ours: float, other: float) -> Row:
    limit = limits.seconds(case.operations, case.bytes)
    return Row(case.kind, case.name, case.operations, case.bytes, limit, ours, other, limit / ours, other / ours)


def table(limits: Limits, rows: list[Row], about: str) -> list[str]:
    head = ["op", "GFLOP", "MB", "limit µs", "samebits µs", "PyTorch µs", "share of the limit", "ratio"]
    return [
        f"{about}. Limits of this run: {limits.operations / 1e12:.2f} TFLOP/s (fma), {limits.bytes / 1e9:.0f} GB/s (copy).",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(
            f"| {r.op} | {r.operations / 1e9:.2f} | {r.bytes / 1e6:.1f} | {r.limit * 1e6:.1f} | {r.ours * 1e6:.1f} | "
            f"{r.torch * 1e6:.1f} | {r.share:.2f} | {r.ratio:.2f} |"
            for r in rows
        ),
    ]


def groups(model: str, tokens: int) -> list[Callable[[], list[Case]]]:
    """What makes the cases of a model, a group at a time, so that its tensors are freed before the next."""
    width, heads, vocabulary = MODELS[model]
    made: list[Callable[[], list[Case]]] = [
        partial(lambda shape: [matmul_case(model, *shape)], shape) for shape in products(width, vocabulary, tokens)
    ]
    return [
        *made,
        lambda: attention_cases(model, width, heads, tokens),
        lambda: row_cases(model, width, vocabulary, tokens),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Each op on a GPU beside PyTorch's and beside its limit.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", default="124M,1558M", help=f"of {', '.join(MODELS)}, with commas")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    parser.add_argument("--json", type=Path, help="write limits and rows to this file")
    args = parser.parse_args()
    unknown = set(args.models.split(",")) - set(MODELS)
    if unknown:
        raise UserError(f"--models {args.models}: allowed are {', '.join(MODELS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU; --device cpu exercises this program without one")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_default_device(args.device)
    torch.manual_seed(0)
    limits = measure_limits(args.device)
    rows = []
    for model in args.models.split(","):
        for group in groups(model, args.tokens):
            for case in group():
                rows.append(row(case, limits, *measure(case, args.rounds)))
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    about = f"{name}, torch {torch.__version__}, fp32, TF32 off, {args.tokens} tokens, {args.rounds} interleaved rounds, medians"
    write(table(limits, rows, about), args.out)
    if args.json:
        write_json(args.json, {"about": about, "limits": asdict(limits), "rows": [asdict(r) for r in rows]})


if __name__ == "__main__":
    exit_on_user_error(main)
