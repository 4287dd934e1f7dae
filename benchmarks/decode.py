"""Decoded tokens per second beside transformers' generate, greedy, fp32, GPT-2's shapes with random weights.

    python -m benchmarks.decode --model 124M --batches 1,8 --tokens 64

Needs transformers, which no part of the project needs and the lock does not hold; without it, ours alone is timed and the table says so:

    pip install --target /tmp/transformers --no-deps transformers
    PYTHONPATH=/tmp/transformers python -m benchmarks.decode

Both sides take turns; medians, and of the pairs' ratios the least and the largest.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.table import write
from cuda_ops import ops
from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.machine.memory import Memory
from pipeline.models.gpt import Gpt
from pipeline.recipe import Gpt as Config
from pipeline.recipe import Gpt2Init

MODELS = {"124M": (12, 12, 768, 50257, 50304), "tiny": (2, 2, 32, 250, 256)}
CONTEXT = 1024


def ours(model: str, batch: int, prompt: int, device: str) -> Callable[[int], object]:
    """Decodes a number of tokens after `prompt` others."""
    layers, heads, channels, vocab, padded = MODELS[model]
    config = Config(
        kind="gpt", layers=layers, heads=heads, channels=channels, context=CONTEXT, vocab_size=vocab,
        padded_vocab_size=padded,
    )  # fmt: skip
    gpt = Gpt(config, 1, training=False, decode_batch=batch, memory=Memory(device))
    gpt.initialise(1, Gpt2Init())
    chosen = torch.zeros(batch, dtype=torch.int32, device=device)
    uniforms = torch.zeros(batch, device=device)

    def decode(count: int) -> object:
        pending, position = torch.ones(batch, prompt, dtype=torch.int32, device=device), 0
        for _ in range(count):
            logits = gpt.decode(pending, position)
            position += pending.shape[1]
            ops.sample(chosen, logits, uniforms, vocab, 0.0)
            pending = chosen.view(-1, 1).clone()
        return chosen.tolist()

    return decode


def theirs(model: str, batch: int, prompt: int, device: str) -> Callable[[int], object]:
    """The same by transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel  # type: ignore[import-not-found,unused-ignore]

    layers, heads, channels, vocab, _ = MODELS[model]
    config = GPT2Config(n_layer=layers, n_head=heads, n_embd=channels, vocab_size=vocab, n_positions=CONTEXT)
    gpt = GPT2LMHeadModel(config).eval().to(device)
    tokens = torch.ones(batch, prompt, dtype=torch.long, device=device)

    def decode(count: int) -> object:
        mask = torch.ones_like(tokens)
        return gpt.generate(
            tokens, attention_mask=mask, do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0
        ).tolist()

    return decode


def rates(sides: list[Callable[[int], object]], batch: int, count: int, rounds: int) -> list[list[float]]:
    """Tokens per second of all sequences, the prompt's pass included: per round those of each side, one after another."""
    for decode in sides:
        decode(2)
    found: list[list[float]] = []
    for _ in range(rounds):
        found.append([])
        for decode in sides:
            clock = time.perf_counter()
            decode(count)
            found[-1].append(batch * count / (time.perf_counter() - clock))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Decoded tokens per second beside transformers' generate.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--model", choices=tuple(MODELS), default="124M")
    parser.add_argument("--batches", default="1,8", help="sequences decoded together, with commas")
    parser.add_argument("--prompt", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args = parser.parse_args()
    if args.prompt + args.tokens > CONTEXT:
        raise UserError(f"--prompt {args.prompt} and --tokens {args.tokens}: together at most {CONTEXT}")
    there = importlib.util.find_spec("transformers") is not None
    lines = ["| batch | samebits tokens/s | transformers tokens/s | ratio of the pairs |", "|---|---|---|---|"]
    with torch.inference_mode():
        for batch in map(int, args.batches.split(",")):
            sides = [
                make(args.model, batch, args.prompt, args.device) for make in ([ours, theirs] if there else [ours])
            ]
            found = rates(sides, batch, args.tokens, args.rounds)
            own = statistics.median(round_[0] for round_ in found)
            cells = ["not installed: pip install transformers", ""]
            if there:
                ratios = sorted(mine / other for mine, other in found)
                cells = [f"{statistics.median(other for _, other in found):.1f}", f"{statistics.median(ratios):.2f}"]
                cells[1] += f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            lines.append(f"| {batch} | {own:.1f} | {cells[0]} | {cells[1]} |")
    write(lines, args.out)


if __name__ == "__main__":
    exit_on_user_error(main)
