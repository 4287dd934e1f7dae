"""A recipe: what defines the bits of a run, and which artefacts the run leaves.

`bits:` defines every bit of the result; `artifacts:` says which results exist. How a machine runs it (ranks, micro-batch,
threads, device) is not in this file and may never change a bit.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.recipe.artifacts import Artifacts
from pipeline.recipe.data import Data, GeneratedSource, TextData
from pipeline.recipe.models import Model
from pipeline.recipe.strict import Name, Seed, Strict, digest_of
from pipeline.recipe.training import AdamW, Batch, Gpt2Init, Init, Optimizer, Schedule, Skip


class Bits(Strict):
    """What may change a bit of the result; the keys marked NotBits are the exceptions."""

    seed: Seed
    numerics: Literal["fp32", "int8x3", "int8x1"] = Field(
        default="fp32", description="of products and attention: chains in fp32, or exact sums of two digits, or of one"
    )
    data: Data
    model: Model
    init: Init = Gpt2Init()
    optimizer: Optimizer = AdamW()
    skip: Skip | None = None
    schedule: Schedule
    batch: Batch
    steps: int = Field(ge=0, lt=2**40, description="0: none; the initial weights are the result")

    @model_validator(mode="after")
    def consistent(self) -> Bits:
        self.model.check(self.data)
        if self.steps:
            self.schedule.check(self.steps)
        if self.start and self.start >= self.steps:
            raise ValueError(
                f"init.steps_done {self.start}: steps is {self.steps}, so none is left; it counts those done too"
            )
        if self.init.kind == "gpt2" and self.model.kind != "gpt":
            raise ValueError(f"init.kind gpt2 is for model.kind gpt, given {self.model.kind}; use init.kind normal")
        if self.numerics != "fp32" and self.model.kind != "gpt":
            raise ValueError(f"numerics {self.numerics} is for model.kind gpt, given {self.model.kind}; use fp32")
        return self

    @property
    def start(self) -> int:
        """The step that the run goes on after; 0: it begins anew."""
        return getattr(self.init, "steps_done", None) or 0

    @property
    def units(self) -> int:
        """What the loss of a step is divided by: tokens, or images."""
        return self.batch.sequences * self.model.units


def products_kind(numerics: str) -> str:
    """The module of pipeline/models that computes the products of a tier."""
    return "fp32" if numerics == "fp32" else "digits"


class Recipe(Strict):
    name: Name
    description: str
    bits: Bits
    artifacts: Artifacts = Artifacts()

    @model_validator(mode="after")
    def within(self) -> Recipe:
        late = [step for step in self.artifacts.checkpoints if step > self.bits.steps]
        if late:
            raise ValueError(f"artifacts.checkpoints {late} lie after the last step {self.bits.steps}")
        early = [step for step in self.artifacts.checkpoints if step <= self.bits.start]
        if early:
            raise ValueError(f"artifacts.checkpoints {early}: the run goes on after step {self.bits.start}")
        text = isinstance(self.bits.data, TextData)
        if self.artifacts.wants("choices"):
            if not isinstance(self.bits.data, TextData):
                raise ValueError("artifacts.scores: choices is for data.kind text")
            if self.artifacts.choices.source is None and not isinstance(self.bits.data.source, GeneratedSource):
                raise ValueError("artifacts.scores: choices: only a generated text has questions; give their source")
        for score in self.artifacts.asked:
            if not text:
                raise ValueError(f"artifacts.scores: {score.kind} is for data.kind text")
        for asked in self.artifacts.scores:
            for step in getattr(asked, "at", None) or ():
                if step not in self.checkpoints:
                    raise ValueError(
                        f"artifacts.scores: {asked.kind}: at {step}: no checkpoint; add it to artifacts.checkpoints"
                    )
        if self.artifacts.loss.tokens is not None and not text:
            raise ValueError("artifacts.scores: loss: tokens is for data.kind text")
        if self.artifacts.wants("accuracy") and text:
            raise ValueError("artifacts.scores: accuracy is for data.kind images")
        if self.artifacts.samples is not None and not text:
            raise ValueError("artifacts.samples: texts are drawn for data.kind text only")
        return self

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps with a checkpoint, ascending; the last step is always one."""
        return tuple(sorted({*self.artifacts.checkpoints, self.bits.steps}))

    def asks(self, kind: str, step: int) -> bool:
        """Whether a score is taken at the checkpoint of a step: some at every one, some at the last and where they say."""
        score = next((score for score in self.artifacts.scores if score.kind == kind), None)
        if score is None:
            return False
        return step == self.bits.steps or not hasattr(score, "at") or step in (score.at or ())


def recipe_id(recipe: Recipe) -> str:
    """What names the bits of a run: SHA-256 of the canonical form of `bits:`."""
    return digest_of(recipe.bits)
