"""Each op on a GPU beside PyTorch's (fp32, TF32 off) and beside what the GPU can do, in one run.

    python -m benchmarks.gpu --out docs/evidence/ops.md
    python -m benchmarks.gpu --device cpu --models tiny --tokens 64     (exercises the program where there is no GPU)

The limits are measured here: the FMA rate of a kernel that does nothing else (benchmarks/peak.cu) and the bandwidth
of a large copy. The limit of an op is the longer of its operations at that rate and its bytes at that bandwidth: each
tensor of a product once, the traffic that docs/kernels.md states for the others (pipeline/evidence/speed_targets.py).
Its share is the limit over the time. Calls are recorded in a CUDA graph, as in training, so that no time of Python's
is in them, and go round several sets of tensors, so that none is still in the second cache. Medians over interleaved
rounds, timed by events on the GPU. The rows of the lm head are those of a piece of the model.

Left out: chain_sum, tree_sum and step_scalars (a few thousand numbers at most: a launch, not a bandwidth), first_nonfinite
(only where a step has failed), sample (once per token of a text), cross_entropy_forward (evaluation; the first pass
of the fused op) and unary (for the proof only). Fill has no limit of bandwidth: its integer arithmetic is what takes
time, once per run.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.gpu_cases import MODELS, Case, groups, lm_head_rows, models_of
from benchmarks.table import write
from cuda_ops.errors import UserError, exit_on_user_error
from cuda_ops.toolkit import find_nvcc
from pipeline.base.files import write_json
from pipeline.evidence.gpu_machine import shared_library

MOST_SETS = 8  # of tensors
GRAPH_SECONDS = 0.02  # of calls in one graph, about


@dataclass(frozen=True)
class Row:
    """What was measured of a case, as written to --json: seconds; share = limit / ours, ratio = torch / ours."""

    kind: str
    model: str
    op: str
    shape: str
    calls: int
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


def cache_bytes() -> int:
    """Of the cache in front of the memory: a GPU's second, and 32 MiB for a CPU."""
    if not torch.cuda.is_available():
        return 2**25
    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def sets(make: Callable[[], list[Case]]) -> list[list[Case]]:
    """The cases of a group, each as often as it takes for the caches to have forgotten a set of tensors when it comes
    again.
    """
    first = make()
    least = min(case.bytes for case in first)
    count = min(MOST_SETS, 1 + math.ceil(2 * cache_bytes() / least))
    return [list(group) for group in zip(*[first, *(make() for _ in range(count - 1))], strict=True)]


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


def timer(calls: list[Callable[[], object]]) -> Callable[[], float]:
    """Seconds per call, going round the calls in turn: replays of a graph of them, or the calls themselves on a CPU."""
    first = max(1e-6, seconds(calls[0], 1))
    for call in calls:  # lazily made things are not to be recorded
        call()
    rounds = max(1, min(100, math.ceil(GRAPH_SECONDS / first / len(calls))))

    def all_of_them() -> None:
        for _ in range(rounds):
            for call in calls:
                call()

    if not torch.cuda.is_available():
        return lambda: seconds(all_of_them, 1) / rounds / len(calls)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            all_of_them()
    except RuntimeError as error:  # an op of PyTorch's that cannot be recorded is timed as it is
        print(f"no graph, so Python's time is in it: {str(error).splitlines()[0]}", file=sys.stderr)
        return lambda: seconds(all_of_them, 1) / rounds / len(calls)
    graph.replay()
    return lambda: seconds(graph.replay, 1) / rounds / len(calls)


def measure(cases: list[Case], rounds: int) -> tuple[float, float]:
    """Median seconds of ours and PyTorch's over sets of the same case; rounds are interleaved."""
    ours, other = timer([case.ours for case in cases]), timer([case.torch for case in cases])
    times = [(ours(), other()) for _ in range(rounds)]
    mine, theirs = (statistics.median(t) for t in zip(*times, strict=True))
    return mine, theirs


def compile_peak(folder: Path, name: str) -> ctypes.CDLL:
    """benchmarks/<name>.cu for the GPU that is here."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise UserError("the peak is measured with nvcc, which is not installed; install the CUDA toolkit")
    source, library = Path(__file__).with_name(f"{name}.cu"), folder / f"{name}.so"
    major, minor = torch.cuda.get_device_capability()
    command = shared_library(nvcc, f"sm_{major}{minor}", source, library)
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
    return Limits(measure_peak("peak", 1 << 12), copy)


def measure_peak(name: str, steps: int) -> float:
    """Operations a second of a kernel that does nothing else, benchmarks/<name>.cu."""
    blocks, counted = 1 << 13, [0.0]
    out = torch.empty(blocks * 256)
    with tempfile.TemporaryDirectory() as folder:
        library = compile_peak(Path(folder), name)

        def launch() -> None:
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            counted[0] = library.peak_launch(ctypes.c_void_p(out.data_ptr()), blocks, steps, stream)
            if counted[0] < 0:
                raise UserError("the kernel that measures the peak cannot be launched")

        least = min(seconds(launch, 2) for _ in range(7))
        return counted[0] / least  # counted by the launches


def row(model: str, case: Case, limits: Limits, ours: float, other: float) -> Row:
    limit = limits.seconds(case.operations, case.bytes)
    return Row(
        case.kind, model, case.op, case.shape, case.calls, case.operations, case.bytes, limit, ours, other, limit / ours,
        other / ours,
    )  # fmt: skip


def table(limits: Limits, rows: list[Row], about: str) -> list[str]:
    head = [
        "op",
        "shape",
        "calls",
        "GFLOP",
        "MB",
        "limit µs",
        "samebits µs",
        "PyTorch µs",
        "share of the limit",
        "ratio",
    ]
    return [
        f"{about}. Limits of this run: {limits.operations / 1e12:.2f} TFLOP/s (fma), {limits.bytes / 1e9:.0f} GB/s (copy).",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(
            f"| {r.model} {r.op} | {r.shape} | {r.calls or ''} | {r.operations / 1e9:.2f} | {r.bytes / 1e6:.1f} | "
            f"{r.limit * 1e6:.1f} | {r.ours * 1e6:.1f} | {r.torch * 1e6:.1f} | {r.share:.2f} | {r.ratio:.2f} |"
            for r in rows
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Each op on a GPU beside PyTorch's and beside its limit.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", default="124M,1558M", help=f"of {', '.join(MODELS)}, with commas")
    parser.add_argument("--ops", default="", help="only ops with this in their name")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    parser.add_argument("--json", type=Path, help="write limits and rows to this file, as they come")
    args = parser.parse_args()
    models = models_of(args.models)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU; --device cpu exercises this program without one")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_default_device(args.device)
    if args.device == "cuda":
        torch.cuda.set_stream(
            torch.cuda.Stream()
        )  # a backward pass runs where its forward pass did: where graphs are recorded
    torch.manual_seed(0)
    limits = measure_limits(args.device)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    about = f"{name}, torch {torch.__version__}, fp32, TF32 off, {args.tokens} tokens, {args.rounds} interleaved rounds, medians"
    rows: list[Row] = []
    for model in models:
        config = MODELS[model]
        for group in groups(config, args.tokens, lm_head_rows(config, args.tokens, args.device)):
            for cases in sets(group):
                if args.ops not in cases[0].op:
                    continue
                rows.append(row(model, cases[0], limits, *measure(cases, args.rounds)))
            if args.json:
                write_json(args.json, {"about": about, "limits": asdict(limits), "rows": [asdict(r) for r in rows]})
    write(table(limits, rows, about), args.out)


if __name__ == "__main__":
    exit_on_user_error(main)
