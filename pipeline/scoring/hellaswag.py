"""HellaSwag in the two protocols that numbers are published in; they differ by percentage points and are never mixed.

llmc (llm.c, dev/data/hellaswag.py): the raw context; acc_norm by the mean loss per token of an ending. lm_eval
(lm-evaluation-harness, hellaswag v1.0): cleaned texts with the activity before them; acc_norm by the loss per character.
acc is by the whole loss in both; the first ending wins a tie. The losses of an ending are added exactly (math.fsum).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.scoring.tails import tail_losses

if TYPE_CHECKING:
    from pipeline.data.contents import Endings, HellaSwagRow
    from pipeline.models.model import Generator
    from pipeline.records.contents import HellaSwag, Protocol


def hellaswag(model: Generator, rows: list[HellaSwagRow], batch: int) -> HellaSwag:
    """acc and acc_norm of each protocol, with the sum of all its losses; rows: of data/benchmarks.py."""
    labels = [row["label"] for row in rows]
    llmc, lm_eval = [row["llmc"] for row in rows], [row["lm_eval"] for row in rows]
    tokens = [[len(ending) for ending in asked["endings"]] for asked in llmc]
    return {
        "examples": len(rows),
        "llmc": scored(model, llmc, labels, tokens, batch),
        "lm_eval": scored(model, lm_eval, labels, [row["characters"] for row in rows], batch),
    }


def scored(model: Generator, rows: list[Endings], labels: list[int], sizes: list[list[int]], batch: int) -> Protocol:
    """One protocol; sizes: of each ending, what its loss is divided by for acc_norm."""
    pairs = [(row["context"], ending) for row in rows for ending in row["endings"]]
    nats = [math.fsum(losses) for losses in tail_losses(model, pairs, batch)]
    right = right_norm = at = 0
    for row, label, size in zip(rows, labels, sizes, strict=True):
        score = nats[at : at + len(row["endings"])]
        at += len(score)
        norm = [loss / max(1, each) for loss, each in zip(score, size, strict=True)]
        right += score.index(min(score)) == label
        right_norm += norm.index(min(norm)) == label
    return {"acc": right / len(rows), "acc_norm": right_norm / len(rows), "nats": math.fsum(nats).hex()}
