"""Outliers of a series by z-score, as llm.c's detector means it: for marking spikes, and for skipping updates by
recipe.

A value's z-score is against the WINDOW values accepted before it, in binary64 with + - * / sqrt only: mean = chain sum
/ n, variance = chain of (x - mean)^2 / n, z = (value - mean) / sqrt(variance), 0 where the variance is 0. A value
above the limit is not accepted, so that it cannot widen what comes after, but the third in a row is: the series has
moved. Everything is recomputed from the window at each step, so the window is the whole state and a resumed run has
the same bits; llm.c (outlier_detector.h) keeps running sums, starts empty after a resume, and puts a rejected value's
predecessor back in the wrong place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cuda_ops.errors import UserError
from pipeline.recipe.training import Skip

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 64
IN_A_ROW = 3  # the outlier that is accepted again
PREFIX = "optimizer.outliers."


class Outliers:
    """The last WINDOW accepted values of one series, oldest first."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.rejected = 0  # in a row, so far

    def score(self, value: float) -> float | None:
        """The z-score of a value, or None while the window fills."""
        if len(self.values) < WINDOW:
            return None
        total = 0.0
        for x in self.values:
            total += x
        mean = total / WINDOW
        total = 0.0
        for x in self.values:
            total += (x - mean) * (x - mean)
        deviation = math.sqrt(total / WINDOW)
        return (value - mean) / deviation if deviation > 0 else 0.0

    def take(self, value: float, limit: float | None) -> tuple[float | None, bool]:
        """Score a value and move the window on; returns the score, and whether it lies above the limit."""
        z = self.score(value)
        outlier = z is not None and limit is not None and z > limit
        self.rejected = self.rejected + 1 if outlier else 0
        if not outlier or self.rejected >= IN_A_ROW:
            self.values = [*self.values[-(WINDOW - 1) :], value]
            self.rejected = 0
        return z, outlier

    def state(self) -> Tensor:
        """fp32 [WINDOW + 2]: how many values, how many rejected in a row, the values (which are fp32) and zeros."""
        import torch

        padding = [0.0] * (WINDOW - len(self.values))
        return torch.tensor([float(len(self.values)), float(self.rejected), *self.values, *padding])

    def restore(self, state: Tensor) -> None:
        count, rejected, *values = state.tolist()
        if len(values) != WINDOW or not 0 <= count <= WINDOW:
            raise UserError(f"the checkpoint's outlier window holds {len(values)} values, this code's has {WINDOW}")
        self.values, self.rejected = values[: int(count)], int(rejected)


class Skipping:
    """Which steps change no weight, as `bits.skip` says: those whose loss or norm is an outlier. Without it, none."""

    def __init__(self, skip: Skip | None) -> None:
        self.limits = {"loss": skip.loss_z, "norm": skip.norm_z} if skip else {}
        self.series = {name: Outliers() for name in self.limits}

    def __bool__(self) -> bool:
        """Whether any step may be skipped: then the host must see loss and norm before the update."""
        return bool(self.series)

    def skips(self, **values: float) -> bool:
        """Whether a step with these values of loss and norm is skipped; every window moves on. The same at every
        rank."""
        found = [series.take(values[name], self.limits[name])[1] for name, series in self.series.items()]
        return any(found)

    def state(self) -> dict[str, Tensor]:
        """The windows, by name in a checkpoint."""
        return {f"{PREFIX}{name}": series.state() for name, series in self.series.items()}

    def restore(self, name: str, state: Tensor) -> None:
        """Take over the window of one of the names of state()."""
        self.series[name.removeprefix(PREFIX)].restore(state)
