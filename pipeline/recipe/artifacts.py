"""`artifacts`: which results a run leaves. Nothing here changes a bit of any of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.recipe.data import FileSource, UrlSource
from pipeline.recipe.strict import Positive, Seed, Strict, digest_of


def stem_of(kind: str, source: Strict) -> str:
    """Name of what a score reads of a source of its own."""
    return f"{kind}-{digest_of(source)[:8]}"


class Samples(Strict):
    """Texts drawn from the last checkpoint, one per prompt and draw."""

    prompts: tuple[str, ...] = ("\n",)
    draws: Positive = 1
    length: Positive = Field(default=200, description="new tokens per sample")
    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0, lt=2**31, description="0: no limit")
    seed: Seed = 0


class LossScore(Strict):
    """Mean loss over the validation split, at every checkpoint."""

    kind: Literal["loss"]
    tokens: Positive | None = Field(default=None, description="of the split, the first to be scored; left out: all")


# Steps of checkpoints at which a score of the last one is taken too; it is no part of what the score is.
At = Annotated[
    tuple[Positive, ...] | None,
    Field(min_length=1, description="checkpoints, by step, that are scored as the last one is"),
]


class ChoicesScore(Strict):
    """Multiple-choice questions at the last checkpoint, and at those that `at` names: those of the generated corpus, or a
    source of their own.

    A source of its own is a file of JSON lines {"context": text, "endings": [text, ...], "label": number of the right one}.
    """

    kind: Literal["choices"]
    source: Annotated[UrlSource | FileSource, Field(discriminator="kind")] | None = Field(
        default=None, description="left out: the questions of the generated corpus"
    )
    at: At = None

    @model_validator(mode="after")
    def lines(self) -> ChoicesScore:
        if self.source is not None and self.source.format != "jsonl":
            raise ValueError(f"source.format {self.source.format}: questions are read from jsonl")
        return self

    @property
    def stem(self) -> str:
        """Name of the file that holds the tokenised questions, <stem>.json in the tokens' folder."""
        return "choices" if self.source is None else stem_of(self.kind, self.source)


class Benchmark(Strict):
    """A published benchmark, at the last checkpoint and at those that `at` names, from a pinned file in its own format."""

    kind: str
    source: Annotated[UrlSource | FileSource, Field(discriminator="kind")]
    at: At = None

    @property
    def stem(self) -> str:
        """Name of the file that holds it as tokens, <stem>.json in the tokens' folder."""
        return stem_of(self.kind, self.source)


class HellaSwagScore(Benchmark):
    """HellaSwag in the protocols of llm.c and of lm-evaluation-harness; source: hellaswag_val.jsonl."""

    kind: Literal["hellaswag"]


class LambadaScore(Benchmark):
    """LAMBADA's last words: accuracy and perplexity; source: OpenAI's lambada_test.jsonl."""

    kind: Literal["lambada"]


class WikiTextScore(Benchmark):
    """Word perplexity of WikiText by lm-evaluation-harness' definition; source: wiki.test.raw."""

    kind: Literal["wikitext"]


class AccuracyScore(Strict):
    """Share of validation images whose class has the largest logit, at every checkpoint."""

    kind: Literal["accuracy"]


Score = Annotated[
    LossScore | ChoicesScore | AccuracyScore | HellaSwagScore | LambadaScore | WikiTextScore,
    Field(discriminator="kind"),
]


class Artifacts(Strict):
    """Which results exist."""

    checkpoints: tuple[Positive, ...] = Field(default=(), description="steps; the last step always has one")
    samples: Samples | None = Field(default=None, description="left out: no texts are drawn")
    scores: tuple[Score, ...] = Field(
        default=(LossScore(kind="loss"),), description="each kind at most once, loss always"
    )

    @field_validator("scores")
    @classmethod
    def one_of_each(cls, scores: tuple[Score, ...]) -> tuple[Score, ...]:
        kinds = [score.kind for score in scores]
        twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
        if twice:
            raise ValueError(f"{twice} is asked for {kinds.count(twice)} times; keep one")
        if "loss" not in kinds:
            raise ValueError("every evaluation has the loss; add {kind: loss}, or leave scores out")
        return scores

    @property
    def choices(self) -> ChoicesScore:
        """The questions' score; where it is not asked for, that of the corpus' own."""
        return next((s for s in self.scores if isinstance(s, ChoicesScore)), ChoicesScore(kind="choices"))

    @property
    def asked(self) -> tuple[ChoicesScore | Benchmark, ...]:
        """The scores that read a source of their own."""
        return tuple(
            s for s in self.scores if isinstance(s, Benchmark) or (isinstance(s, ChoicesScore) and s.source is not None)
        )

    @property
    def loss(self) -> LossScore:
        """The loss's score."""
        return next((s for s in self.scores if isinstance(s, LossScore)), LossScore(kind="loss"))

    def wants(self, kind: str) -> bool:
        """Whether a score of this kind is asked for."""
        return any(score.kind == kind for score in self.scores)
