"""The scores by kind of data and of score: what a recipe asks for is looked up here, and evaluation writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.data.prepared import Prepared
from pipeline.recipe import ImageData, Recipe
from pipeline.recipe.paths import VALIDATION, VALIDATION_STARTS

if TYPE_CHECKING:
    from pipeline.records.contents import Accuracy, Choices, HellaSwag, ImageLoss, Lambada, Loss, WikiText


@dataclass(frozen=True)
class Subject:
    """What is scored, and on what. folder: what the preparation wrote; batch: samples at a time; step: of the checkpoint."""

    recipe: Recipe
    model: Any
    folder: Path
    batch: int
    step: int

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """Records of the validation split [n, 1 + pixels]."""
        from pipeline.data.images import read_shard

        assert isinstance(self.recipe.bits.data, ImageData)
        return read_shard(Prepared(self.folder, "prepare_images").file(VALIDATION), self.recipe.bits.data.source)


def text_loss(of: Subject) -> Loss:
    from pipeline.data.shards import read_shard
    from pipeline.scoring.loss import token_loss

    prepared = Prepared(of.folder)
    tokens = read_shard(prepared.file(VALIDATION))
    aligned = of.recipe.bits.data.order == "documents"
    starts = np.load(prepared.file(VALIDATION_STARTS)) if aligned else None
    most = of.recipe.artifacts.loss.tokens
    size: int | None = prepared.text["validation"]["bytes"]
    if most is not None and most < len(tokens) - 1:  # the first token has no loss; a part's bytes are not recorded
        tokens, size = tokens[: most + 1], None
    return token_loss(of.model, of.model.config.context, tokens, starts, size, of.batch)


def text_choices(of: Subject) -> Choices:
    from pipeline.scoring.choices import choices, questions_in

    return choices(of.model, questions_in(Prepared(of.folder), of.recipe.artifacts.choices.stem), of.batch)


def benchmark(of: Subject, kind: str) -> list[Any]:
    """The rows of a benchmark that the recipe asks for."""
    from pipeline.scoring.choices import questions_in

    stem = next(score.stem for score in of.recipe.artifacts.asked if score.kind == kind)
    return questions_in(Prepared(of.folder), stem)


def text_hellaswag(of: Subject) -> HellaSwag:
    from pipeline.scoring.hellaswag import hellaswag

    return hellaswag(of.model, benchmark(of, "hellaswag"), of.batch)


def text_lambada(of: Subject) -> Lambada:
    from pipeline.scoring.lambada import lambada

    return lambada(of.model, benchmark(of, "lambada"), of.batch)


def text_wikitext(of: Subject) -> WikiText:
    from pipeline.data.tokenizers import load_tokenizer
    from pipeline.scoring.wikitext import wikitext

    separator = load_tokenizer(of.folder).separator
    if separator is None:
        raise UserError(
            "artifacts.scores: wikitext begins a page with the tokenizer's separator; char has none: leave it out"
        )
    return wikitext(of.model, benchmark(of, "wikitext"), of.batch, separator)


def image_loss(of: Subject) -> ImageLoss:
    from pipeline.scoring.images import loss

    return loss(of.model, of.images, of.batch)


def image_accuracy(of: Subject) -> Accuracy:
    from pipeline.scoring.images import accuracy

    return accuracy(of.model, of.images, of.batch)


# What a score writes under its key of eval_<step>.json.
Score = Callable[[Subject], Mapping[str, object]]
SCORES: dict[str, dict[str, Score]] = {
    "text": {
        "loss": text_loss,
        "choices": text_choices,
        "hellaswag": text_hellaswag,
        "lambada": text_lambada,
        "wikitext": text_wikitext,
    },
    "images": {"loss": image_loss, "accuracy": image_accuracy},
}
KEYS = {"loss": "validation"}  # the others are called as their kind is


def scores(of: Subject) -> dict[str, Mapping[str, object]]:
    """Every score that the recipe asks for at this checkpoint, by its key."""
    known = SCORES[of.recipe.bits.data.kind]
    kinds = [score.kind for score in of.recipe.artifacts.scores if of.recipe.asks(score.kind, of.step)]
    return {KEYS.get(kind, kind): known[kind](of) for kind in kinds}
