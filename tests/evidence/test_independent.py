"""pytest tests/evidence/test_independent.py

Two implementations that share no code, one page: the trainer against tests/evidence/independent.py, which was written
from docs/numerics.md. Loss, learning rate, norm and fingerprint of each step and every weight and moment at the end,
bit for bit, for sizes that are multiples of nothing. The control breaks one order of the independent one and must be
seen to differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import Trainer
from tests.bits import assert_bits_equal
from tests.conftest import ROOT
from tests.evidence import independent
from tests.evidence.independent_arithmetic import Array

ODD = ROOT / "tests" / "recipes" / "odd.yaml"
CHANGES = {
    "documents, cosine": {},
    "int8x3": {"numerics: fp32": "numerics: int8x3"},
    "int8x1, sequences of a block and a bit": {
        "numerics: fp32": "numerics: int8x1", "context: 40": "context: 133", "sequences: 8": "sequences: 4",
    },
    "random, wsd": {"order: documents": "order: random", "kind: cosine": "kind: wsd", "lanes: 4": "lanes: 1"},
    "permutation, linear, clipping off": {
        "order: documents": "order: permutation",
        "kind: cosine": "kind: linear",
        "steps: 4": "steps: 3\n  optimizer: {clip_norm: 100.0, weight_decay: 0.3, beta2: 0.999}",
        "context: 40": "context: 7",
        "heads: 2": "heads: 3",
    },
}  # fmt: skip


def both(recipe: Path, tokens: Path) -> tuple[Trainer, independent.Training]:
    trainer = Trainer(load_recipe(recipe), Execution(micro_batch=2, threads=2), Ranks(), tokens)
    trainer.initialise()
    return trainer, independent.Training(recipe, tokens)


@pytest.mark.parametrize("name", CHANGES)
def test_every_step_and_weight_is_equal(tiny: dict[str, Path], tmp_path: Path, name: str) -> None:
    text = ODD.read_text()
    for old, new in CHANGES[name].items():
        assert old in text
        text = text.replace(old, new)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    trainer, other = both(recipe, tiny["tokens"])
    for _ in range(trainer.recipe.bits.steps):
        line, _ = trainer.train_step()
        loss, lr, norm, fingerprint = other.advance()
        theirs = (float(loss), float(lr), float(norm), fingerprint)
        assert (line.loss, line.lr, line.norm, line.fingerprint) == theirs, line.step
    tensors = trainer.checkpoint().tensors
    for prefix, arrays in (("", other.weights), ("optimizer.m.", other.m), ("optimizer.v.", other.v)):
        for tensor, value in arrays.items():
            assert_bits_equal(tensors[prefix + tensor], torch.from_numpy(np.ascontiguousarray(value)), prefix + tensor)
    assert len(tensors) == 3 * len(other.weights)


def test_control_another_order_is_seen(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def left_fold(values: list[Array]) -> Array:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    trainer, other = both(ODD, tiny["tokens"])
    monkeypatch.setattr(independent, "pairwise", left_fold)
    line, _ = trainer.train_step()
    assert line.fingerprint != other.advance()[3]
