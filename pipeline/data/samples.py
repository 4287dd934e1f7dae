"""Samples of a recipe's data as named arrays, by step and place in the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.data.windows import Batches
from pipeline.recipe import Recipe, TextData


class Samples(Protocol):
    """Samples of the training split."""

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        """Samples first .. first + count - 1 of a step (from 1); the first dimension of each array counts samples."""

    def offset(self, sample: int) -> int:
        """Where a sample of the run lies in the training split."""


class Windows:
    """Text: tokens and targets [count, T] int32."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.batches = Batches(recipe, folder)

    def offset(self, sample: int) -> int:
        return self.batches.offset(sample)

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        tokens, targets = self.batches.get(step, first, count)
        return {"tokens": np.asarray(tokens), "targets": np.asarray(targets)}


def samples_of(recipe: Recipe, folder: Path) -> Samples:
    """The samples of a recipe; folder: what preparation wrote."""
    if not isinstance(recipe.bits.data, TextData):
        raise UserError(f"bits.data.kind {recipe.bits.data.kind}: nothing reads it yet")
    return Windows(recipe, folder)
