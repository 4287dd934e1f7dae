"""Images for tests of models: a fixed random pattern per class under noise, and trainers that read them.

python -m tests.models.patterns RANK WORLD_SIZE PORT OUT     one rank of a run, for test_twolayer.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import chain
from pipeline.data.contents import Where
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import Recipe, parse_recipe
from pipeline.training import trainer as module
from pipeline.training.trainer import Trainer

STEPS = 6


class Patterns:
    """Samples of the recipe below, a pure function of step and place."""

    def __init__(self, recipe: Recipe) -> None:
        source = recipe.bits.data.source
        self.pixels, self.classes = source.height * source.width, source.classes  # type: ignore[union-attr]
        self.batch = recipe.bits.batch.sequences
        self.patterns = np.random.default_rng(1).integers(0, 192, (self.classes, self.pixels))

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        pixels, labels = [], []
        for sample in range(first, first + count):
            rng = np.random.default_rng([2, self.offset((step - 1) * self.batch + sample)])
            labels.append(int(rng.integers(self.classes)))
            pixels.append(self.patterns[labels[-1]] + rng.integers(0, 64, self.pixels))
        return {"pixels": np.array(pixels, dtype=np.uint8), "labels": np.array(labels, dtype=np.int32)}

    def offset(self, sample: int) -> int:
        return sample

    def about(self, step: int, index: int) -> Where:
        return {"offset": self.offset((step - 1) * self.batch + index)}


def recipe(**bits: Any) -> Recipe:
    """A recipe of a small net whose sizes are multiples of nothing."""
    source = {
        "kind": "generated",
        "training": 500,
        "validation": 50,
        "classes": 5,
        "height": 7,
        "width": 9,
        "noise": 64,
        "seed": 1,
    }
    content = {
        "seed": 3,
        "data": {"kind": "images", "name": "patterns", "source": source, "order": "sequential"},
        "model": {"kind": "twolayer", "inputs": 63, "hidden": 37, "classes": 5},
        "init": {"kind": "normal", "std": 0.1},
        "schedule": {"kind": "constant", "peak": 1e-2, "warmup_steps": 0},
        "batch": {"sequences": 24, "lanes": 4},
        "steps": STEPS,
    } | bits
    return parse_recipe({"name": "patterns", "description": "images of the tests", "bits": content}, "patterns")


def new_trainer(recipe: Recipe, ranks: Ranks | None = None, **execution: Any) -> Trainer:
    """A trainer of the recipe on Patterns."""
    known = module.samples_of
    module.samples_of = lambda recipe, folder: Patterns(recipe)
    try:
        return Trainer(recipe, Execution(**execution), ranks or Ranks(), Path())
    finally:
        module.samples_of = known


def advance(trainer: Trainer, until: int) -> str:
    """Train up to a step; returns the link of its line."""
    while trainer.step < until:
        line = trainer.train_step()[0].linked(trainer.link or chain.START)
        trainer.link = line.link
    return trainer.link


def main(rank: str, size: str, port: str, out: str) -> None:
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    ranks = Ranks()
    trainer = new_trainer(recipe(), ranks, micro_batch=4)
    trainer.initialise()
    advance(trainer, STEPS)
    trainer.save(Path(out))
    ranks.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
