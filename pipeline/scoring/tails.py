"""Losses of the tokens that follow a context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from cuda_ops.errors import UserError
from pipeline.scoring.loss import batched, losses_of

if TYPE_CHECKING:
    from pipeline.models.model import Generator

Pair = tuple[list[int], list[int]]  # a context and what follows it


def exp(x: float) -> float:
    """e to the x, correctly rounded, the same on every machine: no libm."""
    return float(Decimal(x).exp())


def cropped(pair: Pair, context: int) -> list[int]:
    """The pair as one row that a model of this context reads; the beginning is cut off, the tail must fit whole."""
    head, tail = pair
    if not 0 < len(tail) <= context:
        raise UserError(f"an ending of {len(tail)} tokens does not fit the context of {context}")
    return (head + tail)[-(context + 1) :]


def tail_losses(model: Generator, pairs: Sequence[Pair], batch: int) -> Iterator[list[float]]:
    """The loss of each token of each tail. A tail without a context has none for its first token."""
    from tqdm import tqdm

    for group in tqdm(list(batched(pairs, batch)), desc="endings", unit="batch", disable=None):
        rows = [cropped(pair, model.config.context) for pair in group]
        for (_, tail), losses in zip(group, losses_of(model, rows), strict=True):
            yield losses[-len(tail) :]
