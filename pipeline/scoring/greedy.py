"""What a model would say: the token of the largest logit. A module of its own, so that only scores that ask need the op."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.scoring.loss import batched
from pipeline.scoring.tails import Pair, cropped

if TYPE_CHECKING:
    from pipeline.models.model import Generator


def best(model: Generator, tokens: Tensor) -> Tensor:
    """The token of the largest logit after each of tokens [b, t], the first on ties: int32 [b, t]."""
    from cuda_ops import ops

    found = tokens.new_zeros(tokens.numel())
    for first, last, logits in model.logits(tokens):
        ops.sample(found[first:last], logits, logits.new_zeros(last - first), model.config.vocab_size, 0.0)
    return found.view(tokens.shape)


def chosen(model: Generator, pairs: Sequence[Pair], batch: int) -> Iterator[bool]:
    """Whether every token of a tail has the largest logit after what is before it, the first on ties."""
    for group in batched(pairs, batch):
        rows = [cropped(pair, model.config.context) for pair in group]
        padded = np.zeros((len(rows), max(map(len, rows)) - 1), dtype=np.int32)
        for i, row in enumerate(rows):
            padded[i, : len(row) - 1] = row[:-1]
        said = best(model, torch.from_numpy(padded).to(model.memory.device)).cpu()
        for i, (row, (_, tail)) in enumerate(zip(rows, group, strict=True)):
            yield said[i, len(row) - 1 - len(tail) : len(row) - 1].tolist() == tail
