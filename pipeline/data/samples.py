"""What a step reads: samples by number, whatever they are made of.

A sample is a pure function of (recipe, prepared files, step, index); which rank, lane or process asks for it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from pipeline.recipe import Recipe
from pipeline.recipe.training import Batch

if TYPE_CHECKING:
    from pipeline.data.contents import Where


class Samples(Protocol):
    """Text: tokens and targets, int32 [count, T]. Images: pixels, uint8 [count, pixels], and labels, int32 [count]."""

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        """Samples first .. first + count - 1 of a step; steps count from 1, samples of a step from 0."""
        ...

    def offset(self, sample: int) -> int:
        """Where a sample of the run begins in the training split: a token, or an image; samples of a run count from 0."""
        ...

    def about(self, step: int, index: int) -> Where:
        """Where one sample comes from, for people: JSON values."""
        ...


def batch_of(step: int, skipped: Sequence[tuple[int, int]]) -> int:
    """The batch that a step reads; both count from 1. skipped: first and last of those that none reads, ascending."""
    found = step
    for first, last in skipped:
        if found >= first:
            found += last - first + 1
    return found


class Skipped:
    """Samples of which whole batches are jumped over (bits.batch.skip_batches), for whoever reads them alike."""

    def __init__(self, samples: Samples, batch: Batch) -> None:
        self._samples, self._skipped, self._each = samples, batch.skip_batches or (), batch.sequences

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        return self._samples.get(batch_of(step, self._skipped), first, count)

    def offset(self, sample: int) -> int:
        step, index = divmod(sample, self._each)
        return self._samples.offset((batch_of(step + 1, self._skipped) - 1) * self._each + index)

    def about(self, step: int, index: int) -> Where:
        return self._samples.about(batch_of(step, self._skipped), index)


def samples_of(recipe: Recipe, folder: Path) -> Samples:
    """The training samples of a recipe from the folder that its preparation wrote."""
    samples = _all_samples(recipe, folder)
    return Skipped(samples, recipe.bits.batch) if recipe.bits.batch.skip_batches else samples


def _all_samples(recipe: Recipe, folder: Path) -> Samples:
    if recipe.bits.data.kind == "images":
        from pipeline.data.images import ImageSamples

        return ImageSamples(recipe, folder)
    from pipeline.data.windows import TextSamples

    return TextSamples(recipe, folder)
