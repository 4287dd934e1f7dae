"""`artifacts`: which results a run leaves. Nothing here changes a bit of any of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.strict import Positive, Seed, Strict


class Samples(Strict):
    """Texts drawn from the last checkpoint, one per prompt and draw."""

    prompts: tuple[str, ...] = ("\n",)
    draws: Positive = 1
    length: Positive = Field(default=200, description="new tokens per sample")
    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0, description="0: no limit")
    seed: Seed = 0


class LossScore(Strict):
    """Mean loss over the whole validation split, at every checkpoint."""

    kind: Literal["loss"]


class ChoicesScore(Strict):
    """Multiple-choice questions of the corpus, at the last checkpoint."""

    kind: Literal["choices"]


class AccuracyScore(Strict):
    """Share of validation images whose class has the largest logit, at every checkpoint."""

    kind: Literal["accuracy"]


Score = Annotated[LossScore | ChoicesScore | AccuracyScore, Field(discriminator="kind")]


class Artifacts(Strict):
    """Which results exist."""

    checkpoints: tuple[Positive, ...] = Field(default=(), description="steps; the last step always has one")
    samples: Samples | None = Field(default=None, description="left out: no texts are drawn")
    scores: tuple[Score, ...] = (LossScore(kind="loss"),)

    def wants(self, kind: str) -> bool:
        """Whether a score of this kind is asked for."""
        return any(score.kind == kind for score in self.scores)
