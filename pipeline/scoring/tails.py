"""Losses of the tokens that follow a context, and whether a model would have chosen them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

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


def largest(model: Generator, tokens: Tensor) -> Tensor:
    """The token of the largest logit after each of tokens [b, t], the first on ties: int32 [b, t]."""
    from cuda_ops import ops

    found = tokens.new_zeros(tokens.numel())
    for first, logits in model.logits(tokens):
        rows = found[first : first + len(logits)]
        ops.sample(rows, logits, logits.new_zeros(len(logits)), model.config.vocab_size, 0.0)
    return found.view(tokens.shape)


def chosen(model: Generator, pairs: Sequence[Pair], batch: int) -> Iterator[bool]:
    """Whether every token of a tail has the largest logit after what is before it, the first on ties."""
    for group in batched(pairs, batch):
        rows = [cropped(pair, model.config.context) for pair in group]
        padded = np.zeros((len(rows), max(map(len, rows)) - 1), dtype=np.int32)
        for i, row in enumerate(rows):
            padded[i, : len(row) - 1] = row[:-1]
        best = largest(model, torch.from_numpy(padded).to(model.memory.device)).cpu()
        for i, (row, (_, tail)) in enumerate(zip(rows, group, strict=True)):
            yield best[i, len(row) - 1 - len(tail) : len(row) - 1].tolist() == tail
