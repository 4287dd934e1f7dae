"""Word perplexity of WikiText as lm-evaluation-harness defines it (wikitext v2.0).

Each page is scored from <|endoftext|> on, in windows of the context that follow one another; the last one is filled up on
the left with what was scored already. e to the loss over the words, counted in the original page, not in the detokenised one.
OpenAI's own numbers are per token of the original corpus, by another detokeniser.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.scoring.tails import Pair, exp, tail_losses

if TYPE_CHECKING:
    from pipeline.data.contents import WikiTextRow
    from pipeline.models.model import Generator
    from pipeline.records.contents import WikiText


def rolling(tokens: list[int], prefix: int, context: int) -> Iterator[Pair]:
    """Contexts and tails whose tails are all of tokens, each once."""
    whole = [prefix, *tokens]
    done = 1
    while done < len(whole):
        end = min(done + context, len(whole))
        yield whole[max(0, end - context - 1) : done], whole[done:end]
        done = end


def wikitext(model: Generator, rows: list[WikiTextRow], batch: int, prefix: int) -> WikiText:
    """rows: of data/benchmarks.py; prefix: the token before a page."""
    pairs = [pair for row in rows for pair in rolling(row["tokens"], prefix, model.config.context)]
    nats = math.fsum(loss for losses in tail_losses(model, pairs, batch) for loss in losses)
    words, size = sum(row["words"] for row in rows), sum(row["bytes"] for row in rows)
    return {
        "pages": len(rows),
        "tokens": sum(len(tail) for _, tail in pairs),
        "words": words,
        "word_perplexity": exp(nats / words),
        "nats_per_byte": nats / size,
        "nats": nats.hex(),
    }
