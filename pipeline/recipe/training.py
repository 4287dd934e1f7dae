"""How weights begin and move: `bits.init`, `bits.optimizer`, `bits.schedule`, `bits.batch`, `bits.skip`."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.strict import Name, NotBits, Positive, Sha256, Strict


class Gpt2Init(Strict):
    """Normal(0, std) for matrices, std / sqrt(2 layers) for the projections into the residual stream."""

    kind: Literal["gpt2"] = "gpt2"
    std: float = Field(default=0.02, gt=0)


class NormalInit(Strict):
    """Normal(0, std) for matrices, zero for biases."""

    kind: Literal["normal"]
    std: float = Field(gt=0)


# Left out, a run begins at step 1 with the weights alone.
StepsDone = Annotated[
    Positive | None,
    Field(description="goes on after this step of the run that wrote the file: its optimizer's state is taken up too"),
]


class WeightsInit(Strict):
    """The tensors of a file of ours, of Hugging Face's GPT-2 (safetensors), or of llm.c's (.bin).

    Its SHA-256 is part of the recipe, its place is not.
    """

    kind: Literal["weights"]
    path: Annotated[str, NotBits()] = ""
    url: Annotated[str, NotBits()] = Field(
        default="",
        pattern=r"^((https?|file)://.+|hf://[^@]+@[0-9a-f]{40}/.+)?$",
        description="hf://<repo>@<revision>/<file> is of the Hugging Face hub",
    )
    bytes: Annotated[Positive | None, NotBits()] = None
    licence: Annotated[str, NotBits()] = ""
    sha256: Sha256 = Field(description="of the file")
    steps_done: StepsDone = None


class CheckpointInit(Strict):
    """The weights of another recipe's checkpoint; with steps_done, which is its step, its optimizer state too."""

    kind: Literal["checkpoint"]
    recipe: Annotated[Name, NotBits()] = Field(description="a recipe of config/recipes")
    step: Annotated[int, Field(ge=0), NotBits()]
    sha256: Sha256 = Field(description="digest over its tensors, as in config/expected")
    steps_done: StepsDone = None

    @model_validator(mode="after")
    def same_step(self) -> CheckpointInit:
        if self.steps_done not in (None, self.step):
            raise ValueError(
                f"init.steps_done {self.steps_done}: the checkpoint is of step {self.step}; give that, or none"
            )
        return self


Init = Annotated[Gpt2Init | NormalInit | WeightsInit | CheckpointInit, Field(discriminator="kind")]


class AdamW(Strict):
    """Loshchilov and Hutter 2019, decoupled weight decay on matrices only."""

    kind: Literal["adamw"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=1.0, gt=0, description="maximum global gradient norm")


Optimizer = AdamW  # a union by kind as soon as there is a second


class Skip(Strict):
    """Steps whose loss or gradient norm is an outlier change no weight (training/outliers.py)."""

    loss_z: float | None = Field(default=None, gt=0, description="z-score of the loss above which a step is skipped")
    norm_z: float | None = Field(default=None, gt=0, description="the same of the gradient norm")

    @model_validator(mode="after")
    def something(self) -> Skip:
        if self.loss_z is None and self.norm_z is None:
            raise ValueError("skip: give loss_z or norm_z, or leave skip out")
        return self


class Decay(Strict):
    """Learning rate as a pure function of the step; names and formulas as in llm.c's schedulers.h."""

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    peak: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    final_fraction: float = Field(default=0.1, ge=0, le=1, description="of the peak, at the last step")

    def check(self, steps: int) -> None:
        """Raise ValueError unless the schedule fits a run of so many steps."""
        if self.warmup_steps > steps:
            raise ValueError(f"schedule.warmup_steps {self.warmup_steps} exceeds steps {steps}")


class Phase(Strict):
    """One learning rate from step `first` on."""

    first: Positive
    rate: float = Field(gt=0)


class Phases(Strict):
    """Constant rates one after another, as Krizhevsky, Sutskever and Hinton 2012 (section 5) lowered theirs by hand."""

    kind: Literal["phases"]
    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def ascending(self) -> Phases:
        if self.phases[0].first != 1:
            raise ValueError(f"schedule.phases[0].first {self.phases[0].first}: the first phase begins at step 1")
        for a, b in pairwise(self.phases):
            if b.first <= a.first:
                raise ValueError(f"schedule.phases: first {b.first} after {a.first}: expected ascending steps")
        return self

    def check(self, steps: int) -> None:
        """Raise ValueError unless the schedule fits a run of so many steps."""
        if self.phases[-1].first > steps:
            raise ValueError(f"schedule.phases: the last begins at step {self.phases[-1].first}, after steps {steps}")


Schedule = Annotated[Decay | Phases, Field(discriminator="kind")]


class Batch(Strict):
    """Samples of one step and the lanes they are dealt to, in contiguous blocks."""

    sequences: Positive
    lanes: Positive
    skip_batches: tuple[tuple[Positive, Positive], ...] | None = Field(
        default=None, min_length=1, description="first and last of batches that no step reads, counted from 1"
    )

    @model_validator(mode="after")
    def dealt(self) -> Batch:
        if self.lanes & (self.lanes - 1):
            raise ValueError(f"lanes {self.lanes} is not a power of two (1, 2, 4, 8, ...)")
        if self.sequences % self.lanes:
            raise ValueError(f"lanes {self.lanes} does not divide sequences {self.sequences}")
        return self

    @model_validator(mode="after")
    def apart(self) -> Batch:
        before = 0
        for first, last in self.skip_batches or ():
            if not before < first <= last:
                raise ValueError(
                    f"batch.skip_batches [{first}, {last}]: expected ascending ranges [first, last], apart"
                )
            before = last
        return self
