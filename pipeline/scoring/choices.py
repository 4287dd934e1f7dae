"""Multiple-choice questions, scored as HellaSwag's: the ending of least loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cuda_ops.errors import UserError
from pipeline.base.checked import checked
from pipeline.data.prepared import Prepared, read_json
from pipeline.recipe.paths import choices_name, record_name
from pipeline.scoring.tails import tail_losses

if TYPE_CHECKING:
    from pipeline.data.contents import PreparedQuestions, Question
    from pipeline.models.model import Generator
    from pipeline.records.contents import Choices

REMEDY = "python -m pipeline.prepare_questions --recipe … makes it again"  # of questions with a source of their own


def questions_in(prepared: Prepared, stem: str) -> list[Any]:
    """The tokenised rows of <stem>.json, checked: the corpus' own, or those with a record beside them: Question, or a row of a
    benchmark.
    """
    name = choices_name(stem)
    if name in prepared.digests:
        return list(prepared.json(name))
    record = prepared.folder / record_name(stem)
    if not record.exists():
        raise UserError(f"{record}: no such file; {REMEDY}")
    about: PreparedQuestions = read_json(record, REMEDY)
    path = checked(prepared.folder / name, about["sha256"], REMEDY)
    return list(read_json(path, REMEDY))


def choices(model: Generator, questions: list[Question], batch: int) -> Choices:
    """acc picks the ending of least loss, acc_norm of least loss per byte; first on ties.

    A question has any number of endings. One longer than the model's context loses tokens at its beginning; an ending
    must fit whole.
    """
    pairs = [(question["context"], ending) for question in questions for ending in question["endings"]]
    nats = [math.fsum(losses) for losses in tail_losses(model, pairs, batch)]
    right, right_norm, scores, at = 0, 0, [], 0
    for question in questions:
        score = nats[at : at + len(question["endings"])]
        at += len(score)
        scores.append(score)
        per_byte = [n / size for n, size in zip(score, question["bytes"], strict=True)]
        right += score.index(min(score)) == question["label"]
        right_norm += per_byte.index(min(per_byte)) == question["label"]
    count = len(questions)
    return {
        "questions": count,
        "acc": right / count,
        "acc_norm": right_norm / count,
        "nats": [[n.hex() for n in score] for score in scores],
    }
