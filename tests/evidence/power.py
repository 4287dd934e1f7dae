"""The power of the harness: how many results the same training has, ours and stock PyTorch's, over ways of running it.

    python -m tests.evidence.power             writes docs/evidence/power.json; half an hour on two busy cores
    samebits                        108 cells: 1 digest
    PyTorch, deterministic          108 cells: ...

The recipe tests/recipes/tiny.yaml, six steps, from the same weights on the same tokens, over threads 1, 2, 3 x
micro-batch 1, 2, 4, 8 x ranks 1, 2, 4 x instruction set. PyTorch is fp32 with
torch.use_deterministic_algorithms(True), gradient accumulation, DDP over gloo and ATEN_CPU_CAPABILITY; each of its
cells is run twice. A result is the SHA-256 of all weights.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.torch_gpt import TorchGpt
from cuda_ops import runtime
from pipeline.data.samples import samples_of
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import Recipe, load_recipe
from pipeline.training.trainer import Trainer
from tests.evidence.common import ROOT, TINY, prepared, save

THREADS, MICRO_BATCHES, WORLDS = (1, 2, 3), (1, 2, 4, 8), (1, 2, 4)
LEVELS = {"baseline": "default", "v3": "avx2", "v4": "avx512"}  # SAMEBITS_ISA: ATEN_CPU_CAPABILITY
MARK = "result "


def digest_of(weights: Iterator[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights, key=lambda pair: pair[0]):
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class Loss(nn.Module):
    """The mean loss as forward, which is what DDP wraps."""

    def __init__(self, gpt: TorchGpt) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.gpt.loss(tokens, targets)


class Alone(Ranks):
    """One rank, whatever torchrun says: for the initial weights."""

    def __init__(self) -> None:
        self.rank, self.size, self.device = 0, 1, torch.device("cpu")


def ours(recipe: Recipe, tokens: Path, ranks: Ranks, threads: int, micro_batch: int) -> str:
    runtime.set_threads(threads)
    trainer = Trainer(recipe, Execution(micro_batch=micro_batch), ranks, tokens)
    trainer.initialise()
    for _ in range(recipe.bits.steps):
        trainer.train_step()
    return digest_of(iter(trainer.model.weights.items()))


def stock(recipe: Recipe, tokens: Path, ranks: Ranks, threads: int, micro_batch: int) -> str:
    """Plain PyTorch, the same recipe: gradients of micro-batches accumulate, DDP averages over ranks."""
    torch.set_num_threads(threads)
    first = Trainer(recipe, Execution(), Alone(), tokens)
    first.initialise()
    bits, samples = recipe.bits, samples_of(recipe, tokens)
    assert bits.model.kind == "gpt"
    assert bits.schedule.kind == "cosine"
    gpt = TorchGpt(bits.model)
    gpt.load({name: w.clone() for name, w in first.model.weights.items()})
    model: nn.Module = DistributedDataParallel(Loss(gpt)) if ranks.size > 1 else Loss(gpt)
    decay = [p for p in gpt.parameters() if p.dim() > 1]
    groups = [{"params": decay, "weight_decay": 0.1},
              {"params": [p for p in gpt.parameters() if p.dim() < 2], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, bits.schedule.peak, (0.9, 0.95), 1e-8)
    own = bits.batch.sequences // ranks.size
    for step in range(1, bits.steps + 1):
        arrays = samples.get(step, ranks.rank * own, own)
        x, y = (torch.from_numpy(arrays[name]) for name in ("tokens", "targets"))
        optimizer.zero_grad()
        for begin in range(0, own, micro_batch):
            part = slice(begin, min(begin + micro_batch, own))
            last = part.stop == own
            quiet = (
                model.no_sync() if isinstance(model, DistributedDataParallel) and not last else contextlib.nullcontext()
            )
            with quiet:
                (model(x[part].long(), y[part].long()) * ((part.stop - begin) / own)).backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
    return digest_of(gpt.named_parameters())


def worker(side: str) -> None:
    """All threads and micro-batches of one number of ranks and one instruction set."""
    torch.use_deterministic_algorithms(True)
    recipe, tokens, ranks = load_recipe(TINY), prepared(), Ranks(size=int(os.environ.get("WORLD_SIZE", "1")))
    run = ours if side == "samebits" else stock
    for threads, micro_batch in itertools.product(THREADS, MICRO_BATCHES):
        found = [run(recipe, tokens, ranks, threads, micro_batch) for _ in range(1 if side == "samebits" else 2)]
        if ranks.first:
            cell = {"threads": threads, "micro_batch": micro_batch, "digest": found[0]}
            cell |= {"repeats": len(set(found)) == 1} if len(found) > 1 else {}
            print(MARK + json.dumps(cell), flush=True)
    ranks.close()


def cells(side: str, worlds: tuple[int, ...] = WORLDS) -> list[dict[str, Any]]:
    found = []
    for (isa, capability), world in itertools.product(LEVELS.items(), worlds):
        command = [sys.executable, "-m"]
        if world > 1:
            command += ["torch.distributed.run", "--nproc-per-node", str(world), "--standalone", "-m"]
        env = os.environ | {
            "SAMEBITS_ISA": isa,
            "ATEN_CPU_CAPABILITY": capability,
            "OMP_NUM_THREADS": "1",
            "SAMEBITS_GRAIN": "1",
        }
        done = subprocess.run([*command, "tests.evidence.power", "--worker", side], capture_output=True, text=True, env=env,
                              cwd=ROOT, check=False)  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        rows = [json.loads(line[len(MARK) :]) for line in done.stdout.splitlines() if line.startswith(MARK)]
        assert len(rows) == len(THREADS) * len(MICRO_BATCHES)
        found += [row | {"ranks": world, "isa": capability if side == "torch" else isa} for row in rows]
        print(side, isa, world, len({row["digest"] for row in rows}), flush=True)
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Distinct digests in all, and over one axis while the others stay at their first value."""
    base = {"threads": 1, "micro_batch": 1, "ranks": 1, "isa": found[0]["isa"]}

    def over(axis: str) -> int:
        return len({c["digest"] for c in found if all(c[k] == v for k, v in base.items() if k != axis)})

    repeats = [c["repeats"] for c in found if "repeats" in c]  # of the cells that were run twice
    return {
        "cells": len(found),
        "distinct": len({c["digest"] for c in found}),
        "distinct_over": {axis: over(axis) for axis in base},
    } | ({"cells_that_repeat": sum(repeats)} if repeats else {})


def main() -> None:
    parser = argparse.ArgumentParser(description="Distinct results, ours and stock PyTorch's.")
    parser.add_argument("--worker", choices=("samebits", "torch"), help="(internal)")
    worker_side = parser.parse_args().worker
    if worker_side:
        return worker(worker_side)
    found = {side: cells(side) for side in ("samebits", "torch")}
    result = {side: summary(rows) for side, rows in found.items()}
    for side, row in result.items():
        print(side, row)
    save("power", {"recipe": "tests/recipes/tiny.yaml", "summary": result, "cells": found})


if __name__ == "__main__":
    main()
