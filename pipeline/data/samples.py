"""What a step reads: samples by number, whatever they are made of.

A sample is a pure function of (recipe, prepared files, step, index); which rank, lane or process asks for it changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from pipeline.recipe import Recipe


class Samples(Protocol):
    """Text: tokens and targets, int32 [count, T]. Images: pixels, uint8 [count, pixels], and labels, int32 [count]."""

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        """Samples first .. first + count - 1 of a step; steps count from 1, samples of a step from 0."""
        ...

    def offset(self, sample: int) -> int:
        """Where a sample of the run begins in the training split: a token, or an image; samples of a run count from 0."""
        ...

    def about(self, step: int, index: int) -> dict[str, Any]:
        """Where one sample comes from, for people: JSON values."""
        ...


def samples_of(recipe: Recipe, folder: Path) -> Samples:
    """The training samples of a recipe from the folder that its preparation wrote."""
    if recipe.bits.data.kind == "images":
        from pipeline.data.images import ImageSamples

        return ImageSamples(recipe, folder)
    from pipeline.data.windows import TextSamples

    return TextSamples(recipe, folder)
