"""LAMBADA as lm-evaluation-harness scores it (lambada_openai v1.0), on OpenAI's text: the last word after all before it.

acc: every token of the word has the largest logit. perplexity: of the word, e to the mean of its loss over the texts. OpenAI's
own numbers (35.13 and 45.99 for 124M) are of another protocol, with a filter of stop words: compare with re-measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.scoring.loss import batched
from pipeline.scoring.tails import Pair, cropped, exp, tail_losses

if TYPE_CHECKING:
    from pipeline.models.model import Generator


def lambada(model: Generator, rows: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """rows: of data/benchmarks.py."""
    pairs = [(row["context"], row["word"]) for row in rows]
    nats = math.fsum(loss for losses in tail_losses(model, pairs, batch) for loss in losses)
    right = sum(chosen(model, pairs, batch))
    return {
        "texts": len(rows),
        "acc": right / len(rows),
        "perplexity": exp(nats / len(rows)),
        "nats": nats.hex(),
    }


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
