"""HellaSwag in the two protocols that numbers are published in; they differ by percentage points and are never mixed.

llmc (llm.c, dev/data/hellaswag.py): the raw context; acc_norm by the mean loss per token of an ending. lm_eval
(lm-evaluation-harness, hellaswag v1.0): cleaned texts with the activity before them; acc_norm by the loss per character.
acc is by the whole loss in both; the first ending wins a tie. The losses of an ending are added exactly (math.fsum).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipeline.scoring.tails import tail_losses

if TYPE_CHECKING:
    from pipeline.models.model import Generator


def hellaswag(model: Generator, rows: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """acc and acc_norm of each protocol, with the sum of all its losses; rows: of data/benchmarks.py."""
    found: dict[str, Any] = {"examples": len(rows)}
    for protocol in ("llmc", "lm_eval"):
        pairs = [(row[protocol]["context"], ending) for row in rows for ending in row[protocol]["endings"]]
        nats = [math.fsum(losses) for losses in tail_losses(model, pairs, batch)]
        right = right_norm = at = 0
        for row in rows:
            endings = row[protocol]["endings"]
            score = nats[at : at + len(endings)]
            at += len(endings)
            sizes = [len(ending) for ending in endings] if protocol == "llmc" else row["characters"]
            norm = [loss / max(1, size) for loss, size in zip(score, sizes, strict=True)]
            right += score.index(min(score)) == row["label"]
            right_norm += norm.index(min(norm)) == row["label"]
        found[protocol] = {"acc": right / len(rows), "acc_norm": right_norm / len(rows), "nats": math.fsum(nats).hex()}
    return found
