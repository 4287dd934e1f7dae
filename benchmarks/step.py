"""One training step of the GPT against PyTorch, side by side.

    python -m benchmarks.step --configs 4x128,6x384,124M --rounds 3

Each side runs in a process of its own, rounds interleaved; medians of tokens per second, and the peak memory that a process
needed beyond its imports. PyTorch is fp32, the faster of eager and torch.compile, with fused AdamW and clip_grad_norm_.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# layers, heads, channels, context, sequences, vocabulary, padded vocabulary
CONFIGS = {
    "4x128": (4, 4, 128, 256, 16, 1024, 1024),
    "6x384": (6, 6, 384, 256, 8, 4096, 4096),
    "124M": (12, 12, 768, 1024, 1, 50257, 50304),
}
SIDES = ("samebits", "eager", "compile")


def peak_mib() -> float:
    """High-water mark of this process's memory."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def ours(config: Any, sequences: int, tokens: Any, targets: Any) -> Any:
    """A function that does one step with our kernels."""
    import torch

    from cuda_ops import ops
    from pipeline.models.gpt import Gpt
    from pipeline.recipe import Init

    model = Gpt(config, sequences, lane_sequences=sequences, flat_multiple=ops.NORM_CHUNK)
    model.initialise(1, Init())
    grads, m, v = (model.new_flat() for _ in range(3))
    partials, scalar = torch.zeros(model.flat_size // ops.NORM_CHUNK), torch.zeros(1)
    matrices = {name: len(shape) > 1 for name, shape in model.shapes.items()}

    def step() -> float:
        grads.zero_()
        model.begin_lane(tokens)
        losses = model.accumulate(tokens, targets, grads, 1 / tokens.numel())
        model.finish_lane(grads)
        scalar.zero_()
        ops.chain_sum(scalar, losses)
        loss = scalar.item() / tokens.numel()
        ops.norm_partials(partials, grads)
        ops.tree_sum(scalar, partials)
        norm = scalar.item() ** 0.5
        scale = 1.0 if norm <= 1 else 1.0 / norm
        flats = [model.named(flat) for flat in (model.parameters, m, v, grads)]
        for name, decayed in matrices.items():
            p, first, second, g = (flat[name] for flat in flats)
            ops.adamw(p, first, second, g, scale, 1e-3, 0.9, 0.95, 1e-8, 0.1 if decayed else 0.0, 0.1, 0.05)
        return loss

    return step


def theirs(config: Any, compiled: bool, tokens: Any, targets: Any) -> Any:
    """A function that does one step with PyTorch."""
    import torch

    from benchmarks.torch_gpt import TorchGpt

    torch.manual_seed(1)
    model = TorchGpt(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, 0.0, 0.02)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-3, (0.9, 0.95), 1e-8, fused=True)
    x, y = tokens.long(), targets.long()
    compute = torch.compile(model.loss) if compiled else model.loss

    def step() -> float:
        loss = compute(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.item())

    return step


def measure(side: str, name: str, threads: int, seconds: float) -> dict[str, float]:
    """Run one side in this process."""
    import torch

    from cuda_ops import ops
    from pipeline.recipe import Gpt as Config

    layers, heads, channels, context, sequences, vocab, padded = CONFIGS[name]
    config = Config(
        kind="gpt",
        layers=layers,
        heads=heads,
        channels=channels,
        context=context,
        vocab_size=vocab,
        padded_vocab_size=padded,
    )
    torch.set_num_threads(threads)
    ops.set_threads(threads)
    before = peak_mib()
    windows = torch.randint(0, vocab, (sequences, context + 1), dtype=torch.int32)
    tokens, targets = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
    step = (
        ours(config, sequences, tokens, targets)
        if side == "samebits"
        else theirs(config, side == "compile", tokens, targets)
    )
    for _ in range(2):
        loss = step()
    times = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 3:
        clock = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - clock)
    return {
        "tokens_per_second": tokens.numel() / statistics.median(times),
        "loss": loss,
        "memory_mib": peak_mib() - before,
        "peak_mib": peak_mib(),
    }


def compare(name: str, threads: int, rounds: int, seconds: float) -> str:
    """A row of the table: medians over interleaved rounds."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.step", "--side", side, "--configs", name]
            command += ["--threads", str(threads), "--seconds", str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{side} failed on {name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    speed = {side: statistics.median(r["tokens_per_second"] for r in runs) for side, runs in found.items() if runs}
    best = max((side for side in speed if side != "samebits"), key=lambda side: speed[side])
    memory = {side: statistics.median(r["memory_mib"] for r in runs) for side, runs in found.items() if runs}
    least = min(memory[side] for side in memory if side != "samebits")
    return (
        f"| {name} | {speed['samebits']:,.0f} | {speed.get('eager', 0):,.0f} | {speed.get('compile', 0):,.0f} | "
        f"{speed['samebits'] / speed[best]:.2f} | {memory['samebits']:,.0f} | {memory.get('eager', 0):,.0f} | "
        f"{memory.get('compile', 0):,.0f} | {memory['samebits'] / least:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="One training step of the GPT against PyTorch.")
    parser.add_argument("--configs", default="4x128,6x384,124M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of steps per process")
    parser.add_argument("--side", choices=SIDES, help="run one side here and print its numbers as JSON")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.configs, args.threads, args.seconds)))
        return
    print(
        "| model | samebits tokens/s | eager | compiled | ratio to the faster | samebits MiB | eager MiB | compiled MiB | to the smaller |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.configs.split(","):
        print(compare(name, args.threads, args.rounds, args.seconds), flush=True)


if __name__ == "__main__":
    main()
