"""Mean loss over a validation split of tokens, or over its beginning.

Every token but the first is scored exactly once. Where the recipe's order is `documents`, a window begins
where a document begins, and what a window cuts off is scored in the next one, which begins with the document that was
cut. The fp32 losses of the tokens are added exactly (math.fsum), so no batch size, thread or order can change the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.models.model import Generator
    from pipeline.records.contents import Loss

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Tokens begin .. begin + length of the split as input and target; the first `skip` targets are scored elsewhere."""

    begin: int
    length: int
    skip: int


def windows(total: int, context: int, starts: NDArray[np.int64] | None) -> Iterator[Window]:
    """Windows whose scored targets are 1 .. total - 1, each once."""
    scored = 1  # the next target to score
    while scored < total:
        begin = scored - 1
        if starts is not None:
            at = int(starts[np.searchsorted(starts, begin, side="right") - 1])
            # From the start of the document, unless it is too long for the window to reach the target.
            if scored - at < context:
                begin = at
        length = min(context, total - 1 - begin)
        yield Window(begin, length, scored - 1 - begin)
        scored = begin + length + 1


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def losses_of(model: Generator, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """Loss of each token after the first of each row; rows are padded at the end, which causality hides."""
    longest = max(len(row) for row in rows) - 1
    padded = np.zeros((len(rows), longest + 1), dtype=np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    tokens = torch.from_numpy(padded).to(model.memory.device)
    losses = model.losses(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).cpu()
    return [losses[i, : len(row) - 1].tolist() for i, row in enumerate(rows)]


def token_loss(
    model: Generator,
    context: int,
    tokens: NDArray[np.unsignedinteger],
    starts: NDArray[np.int64] | None,
    size: int | None,
    batch: int,
) -> Loss:
    """Summed and mean loss of a split of `size` bytes of text, if known; starts: of its documents, where windows begin
    with one.
    """
    from tqdm import tqdm

    parts: list[float] = []
    groups = list(batched(list(windows(len(tokens), context, starts)), batch))
    for group in tqdm(groups, desc="validation", unit="batch", disable=None):
        rows = [tokens[w.begin : w.begin + w.length + 1].tolist() for w in group]
        for window, losses in zip(group, losses_of(model, rows), strict=True):
            parts += losses[window.skip :]
    if len(parts) != len(tokens) - 1:
        raise AssertionError(f"scored {len(parts)} of {len(tokens) - 1} tokens")
    total = math.fsum(parts)
    found: Loss = {"tokens": len(parts), "nats": total.hex(), "nats_per_token": total / len(parts)}
    if size is not None:
        found["nats_per_byte"] = total / size
    return found
