"""`bits.model`: the architecture. A union by `kind`; pipeline/models/<kind>.py computes it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cuda_ops.errors import UserError
from pipeline.recipe.data import Data, ImageData, TextData
from pipeline.recipe.strict import Positive, Strict

# The widest head that the CUDA attention kernels hold; attention_head_size of cuda_ops/kernels/attention_tile.h.
CUDA_HEAD_SIZE = 256


class Gpt(Strict):
    """GPT-2's architecture (Radford et al. 2019, section 2.3): pre-LayerNorm, tied lm head, tanh GELU."""

    unit: ClassVar[str] = "token"  # what the loss is a mean over

    kind: Literal["gpt"]
    layers: Positive
    heads: Positive
    channels: Positive
    context: Positive = Field(description="tokens per sequence, T")
    vocab_size: Positive
    padded_vocab_size: Positive

    @model_validator(mode="after")
    def divisible(self) -> Gpt:
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} is not a multiple of heads {self.heads}")
        if self.padded_vocab_size < self.vocab_size:
            raise ValueError(f"padded_vocab_size {self.padded_vocab_size} is below vocab_size {self.vocab_size}")
        return self

    @property
    def parameters(self) -> int:
        """Trainable scalars, without the padding of the vocabulary (124,439,808 for GPT-2 small)."""
        c = self.channels
        block = 12 * c * c + 13 * c
        return self.vocab_size * c + self.context * c + self.layers * block + 2 * c

    @property
    def units(self) -> int:
        """Tokens of a sample that have a loss."""
        return self.context

    def check(self, data: Data) -> None:
        """Raise ValueError unless this model can read the data."""
        if not isinstance(data, TextData):
            raise ValueError(f"model.kind gpt reads data.kind text, given {data.kind}")
        tokenizer = data.tokenizer
        expected = {"bpe": getattr(tokenizer, "vocab_size", None), "gpt2": 50257}.get(tokenizer.kind)
        if expected is not None and self.vocab_size != expected:
            raise ValueError(f"model.vocab_size {self.vocab_size} differs from the tokenizer's {expected}")

    def refuse(self, devices: list[str]) -> None:
        """Raise UserError for a device (cpu, cuda) that this model cannot run on: a GPU, for heads that are too wide.

        Asked before the ops are compiled, so here and not in pipeline/models.
        """
        size = self.channels // self.heads
        if "cuda" in devices and size > CUDA_HEAD_SIZE:
            raise UserError(
                f"--device {','.join(devices)}: heads of {size} ({self.channels} channels / {self.heads} heads), a "
                f"GPU's kernels take up to {CUDA_HEAD_SIZE}; run with --device cpu, or give the recipe more heads"
            )


class TwoLayer(Strict):
    """One hidden layer and a softmax: the net of Steinkraus, Buck and Simard 2005, section 3, with tanh GELU hidden units."""

    unit: ClassVar[str] = "image"

    kind: Literal["twolayer"]
    inputs: Positive = Field(description="pixels of an image")
    hidden: Positive
    classes: int = Field(ge=2)

    @property
    def parameters(self) -> int:
        """Trainable scalars: two matrices and two biases."""
        return self.hidden * (self.inputs + 1) + self.classes * (self.hidden + 1)

    @property
    def units(self) -> int:
        """An image has one loss."""
        return 1

    def check(self, data: Data) -> None:
        """Raise ValueError unless this model can read the data."""
        if not isinstance(data, ImageData):
            raise ValueError(f"model.kind twolayer reads data.kind images, given {data.kind}")
        pixels = data.source.height * data.source.width
        if self.inputs != pixels:
            raise ValueError(f"model.inputs {self.inputs} differs from the {pixels} pixels of an image")
        if self.classes != data.source.classes:
            raise ValueError(f"model.classes {self.classes} differs from the data's {data.source.classes}")

    def refuse(self, devices: list[str]) -> None:
        """Its ops run everywhere."""


Model = Annotated[Gpt | TwoLayer, Field(discriminator="kind")]
