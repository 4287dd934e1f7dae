"""Samples of a recipe's data as named arrays, by step and place in the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.data.tokenizers import load_tokenizer
from pipeline.data.windows import Batches
from pipeline.recipe import Recipe, TextData


class Samples(Protocol):
    """Samples of the training split."""

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        """Samples first .. first + count - 1 of a step (from 1); the first dimension of each array counts samples."""

    def offset(self, sample: int) -> int:
        """Where a sample of the run lies in the training split."""

    def about(self, step: int, index: int) -> dict[str, Any]:
        """Where one sample comes from, for people: JSON values."""


class Windows:
    """Text: tokens and targets [count, T] int32."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.batches, self.folder = Batches(recipe, folder), folder

    def offset(self, sample: int) -> int:
        return self.batches.offset(sample)

    def about(self, step: int, index: int) -> dict[str, Any]:
        row = self.get(step, index, 1)["tokens"][0].tolist()
        offset = self.offset((step - 1) * self.batches.sequences + index)
        return {"offset": offset, "tokens": row[:32], "text": load_tokenizer(self.folder).decode(row)}

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        tokens, targets = self.batches.get(step, first, count)
        return {"tokens": np.asarray(tokens), "targets": np.asarray(targets)}


def samples_of(recipe: Recipe, folder: Path) -> Samples:
    """The samples of a recipe; folder: what preparation wrote."""
    if not isinstance(recipe.bits.data, TextData):
        raise UserError(f"bits.data.kind {recipe.bits.data.kind}: nothing reads it yet")
    return Windows(recipe, folder)
