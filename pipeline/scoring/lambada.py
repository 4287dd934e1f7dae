"""LAMBADA as lm-evaluation-harness scores it (lambada_openai v1.0), on OpenAI's text: the last word after all before it.

acc: every token of the word has the largest logit. perplexity: of the word, e to the mean of its loss over the texts. OpenAI's
own numbers (35.13 and 45.99 for 124M) are of another protocol, with a filter of stop words: compare with re-measurements.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.scoring.greedy import chosen
from pipeline.scoring.tails import exp, tail_losses

if TYPE_CHECKING:
    from pipeline.data.contents import LambadaRow
    from pipeline.models.model import Generator
    from pipeline.records.contents import Lambada


def lambada(model: Generator, rows: list[LambadaRow], batch: int) -> Lambada:
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
