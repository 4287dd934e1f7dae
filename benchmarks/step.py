"""One training step of the GPT against PyTorch, side by side.

    python -m benchmarks.step --configs 4x128,6x384,124M --rounds 3
    python -m benchmarks.step --device cuda --configs "124M x8" --sides "samebits;compiled" --rounds 1

Each side runs in a process of its own, rounds interleaved; medians over rounds of the median step. Our side is the
trainer itself with the fingerprint of every step, in fp32 and in digits; PyTorch is fp32, eager and torch.compile, and
bf16 by autocast, with fused AdamW and clip_grad_norm_. Memory is the process's high-water mark from after its imports
(PyTorch's optimizer and compiler used once before), and what that is above the memory held at that moment.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.table import header, write
from benchmarks.tokens import write_tokens
from benchmarks.torch_gpt import TorchGpt
from cuda_ops import runtime
from pipeline.base.files import write_json
from pipeline.data.samples import samples_of
from pipeline.machine.execution import Execution
from pipeline.machine.graphs import EAGER_CALLS
from pipeline.machine.ranks import Ranks
from pipeline.recipe import Gpt, Recipe, parse_recipe
from pipeline.training.trainer import Trainer

# layers, heads, channels, context, sequences, vocabulary, padded vocabulary
CONFIGS = {
    "4x128": (4, 4, 128, 256, 16, 1024, 1024),
    "6x384": (6, 6, 384, 256, 8, 4096, 4096),
    "124M": (12, 12, 768, 1024, 1, 50257, 50304),
    "124M x8": (12, 12, 768, 1024, 8, 50257, 50304),
    "1558M x4": (48, 25, 1600, 1024, 4, 50257, 50304),
    "tiny": (2, 2, 32, 32, 2, 300, 304),
}
SIDES = (
    "samebits",
    "samebits, recompute",
    "samebits, int8x3",
    "samebits, int8x1",
    "eager",
    "compiled",
    "compiled, bf16",
)
Step = Callable[[], object]


def status_mib(key: str) -> float:
    """A line of /proc/self/status in MiB: VmHWM is the high-water mark, VmRSS what is held now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def recipe_of(name: str, numerics: str = "fp32") -> Recipe:
    """A recipe around one of CONFIGS; its text is never read."""
    layers, heads, channels, context, sequences, vocab, padded = CONFIGS[name]
    tokenizer = {"kind": "gpt2"} if vocab == 50257 else {"kind": "bpe", "vocab_size": vocab}
    data = {
        "name": "random",
        "source": {"kind": "generated", "stories": 1, "questions": 1, "seed": 1},
        "tokenizer": tokenizer,
        "split": {"by": "documents", "validation_permille": 1},
        "order": "sequential",
    }
    model = {"kind": "gpt", "layers": layers, "heads": heads, "channels": channels, "context": context}
    bits = {
        "seed": 1,
        "numerics": numerics,
        "data": data,
        "model": model | {"vocab_size": vocab, "padded_vocab_size": padded},
        "schedule": {"kind": "constant", "peak": 3e-4, "warmup_steps": 0},
        "batch": {"sequences": sequences, "lanes": 1},
        "steps": 1000,
    }
    return parse_recipe({"name": "benchmark", "description": name, "bits": bits}, name)


def gpt_of(recipe: Recipe) -> Gpt:
    """The model of a recipe of recipe_of."""
    assert isinstance(recipe.bits.model, Gpt)
    return recipe.bits.model


def ours(recipe: Recipe, tokens: Path, threads: int, recompute: bool, device: str, micro_batch: int | None) -> Step:
    """A function that does one step with our trainer."""
    all_at_once = recipe.bits.batch.sequences
    execution = Execution(
        micro_batch=all_at_once if micro_batch is None else micro_batch, recompute=recompute, threads=threads
    )
    execution.check(recipe)
    runtime.set_threads(threads)
    trainer = Trainer(recipe, execution, Ranks(device), tokens)
    trainer.initialise()
    return trainer.train_step


def theirs(recipe: Recipe, tokens: Path, compiled: bool, device: str, bf16: bool = False) -> Step:
    """A function that does one step with PyTorch on the same windows."""
    config, samples = gpt_of(recipe), samples_of(recipe, tokens)
    torch.manual_seed(1)
    model = TorchGpt(config).to(device)
    for p in model.parameters():
        torch.nn.init.normal_(p, 0.0, 0.02)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 3e-4, (0.9, 0.95), 1e-8, fused=True)
    loss_of: Any = torch.compile(model.loss) if compiled else model.loss
    count = 0

    def step() -> float:
        nonlocal count
        count += 1
        arrays = samples.get(count, 0, recipe.bits.batch.sequences)
        x, y = (torch.from_numpy(arrays[name]) for name in ("tokens", "targets"))
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = loss_of(x.long().to(device), y.long().to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.item())

    return step


def warm_up(compiled: bool) -> None:
    """Use PyTorch's lazily imported parts once, so that their memory is not counted as the step's."""
    layer = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    compute: Any = torch.compile(layer) if compiled else layer
    compute(torch.ones(4, 8)).sum().backward()
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()


def measure(
    side: str, name: str, threads: int, seconds: float, device: str, micro_batch: int | None = None
) -> dict[str, float]:
    """Run one side in this process. On a GPU grown_mib is what its memory grew by after the third step, which records
    the graphs."""
    torch.set_num_threads(threads)
    tier = side.partition(", ")[2]
    recipe = recipe_of(name, tier if tier.startswith("int8") else "fp32")
    bits, model = recipe.bits, gpt_of(recipe)
    if not side.startswith("samebits") and device == "cpu":  # a GPU's memory is counted by its allocator
        warm_up(side.startswith("compiled"))
    with tempfile.TemporaryDirectory() as folder:
        count = 400 * bits.units + 1
        tokens = np.random.default_rng(1).integers(0, model.vocab_size, count)
        write_tokens(Path(folder), tokens, model.vocab_size)
        del tokens
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again here
        before = status_mib("VmRSS")
        if side.startswith("samebits"):
            step = ours(recipe, Path(folder), threads, side.endswith("recompute"), device, micro_batch)
        else:
            step = theirs(recipe, Path(folder), side.startswith("compiled"), device, tier == "bf16")
        for _ in range(EAGER_CALLS + 1):  # the last one records the graphs
            step()
        steady = torch.cuda.max_memory_reserved() / 2**20 if device == "cuda" else None
        times: list[float] = []
        began = time.perf_counter()
        while time.perf_counter() - began < seconds or len(times) < 3:
            clock = time.perf_counter()
            step()
            times.append(time.perf_counter() - clock)
    per_second = bits.units / statistics.median(times)
    peak = status_mib("VmHWM")
    if steady is not None:  # of the GPU's memory
        before, peak = 0.0, torch.cuda.max_memory_reserved() / 2**20
    found = {"tokens_per_second": per_second, "own_mib": peak - before, "peak_mib": peak}
    return found if steady is None else found | {"grown_mib": peak - steady}


def rounds_of(name: str, sides: list[str], rounds: int, flags: list[str]) -> dict[str, dict[str, float]]:
    """Medians over interleaved rounds, by side; a side that fails is reported and left out."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            command = [sys.executable, "-m", "benchmarks.step", "--one", side, "--configs", name, *flags]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                print(f"{name}: {side} failed: {words[-1]}", file=sys.stderr)
                continue
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name} round {number + 1}/{rounds} {side}: {done.stdout.splitlines()[-1]}", file=sys.stderr)
    return {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for side, runs in found.items()
        if runs
    }


def rows_of(name: str, found: dict[str, dict[str, float]]) -> list[str]:
    """One row per side; ratios are to the faster, and to the leaner, of PyTorch's sides."""
    others = [values for side, values in found.items() if side in ("eager", "compiled")]
    rows = []
    for side, values in found.items():
        cells = [
            name,
            side,
            f"{values['tokens_per_second']:,.0f}",
            f"{values['own_mib']:,.0f}",
            f"{values['peak_mib']:,.0f}",
        ]
        if others and side.startswith("samebits"):
            cells.append(f"{values['tokens_per_second'] / max(o['tokens_per_second'] for o in others):.2f}")
            cells += [f"{values[key] / min(o[key] for o in others):.2f}" for key in ("own_mib", "peak_mib")]
        else:
            cells += ["", "", ""]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="One training step of the GPT against PyTorch.")
    parser.add_argument("--configs", default="4x128,6x384,124M", help=f"of {', '.join(CONFIGS)}")
    parser.add_argument("--sides", default=";".join(SIDES), help="separated by ;")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, help="of our sides; all sequences at once where it is not given")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of steps per process")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    parser.add_argument("--json", type=Path, help="write the numbers of every model and side to this file")
    parser.add_argument("--one", choices=SIDES, help="run one side here and print its numbers as JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.configs, args.threads, args.seconds, args.device, args.micro_batch)))
        return
    flags = ["--threads", str(args.threads), "--seconds", str(args.seconds), "--device", args.device]
    pieces = [] if args.micro_batch is None else ["--micro-batch", str(args.micro_batch)]
    flags += pieces
    lines = [
        header(
            args.threads,
            f"{args.rounds} rounds"
            + (f", {torch.cuda.get_device_name()}" if args.device == "cuda" else "")
            + (f", our micro-batch {args.micro_batch}" if pieces else ""),
        ),
        "",
        "| model | side | tokens/s | MiB beyond imports | MiB in all | speed ratio | memory ratio | ratio in all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    measured = []
    for name in args.configs.split(","):
        found = rounds_of(name, args.sides.split(";"), args.rounds, flags)
        lines += rows_of(name, found)
        measured += [{"model": name, "side": side, **values} for side, values in found.items()]
    write(lines, args.out)
    if args.json:
        write_json(args.json, {"rows": measured})


if __name__ == "__main__":
    main()
