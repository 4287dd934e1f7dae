"""What the house asks of a model; pipeline/models/<kind>.py answers. Nothing outside models/ names a kind.

A lane is one chain over its samples: any micro-batch of whole samples continues it, so the micro-batch changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.machine.memory import Memory
from pipeline.models.flat import Flat, Parameter, Shape
from pipeline.recipe.models import Model as Config
from pipeline.recipe.training import Init

Arrays = Mapping[str, NDArray[Any]]  # samples as data/ gives them, the first dimension counts samples
Inputs = Mapping[str, Tensor]  # of one lane
Observer = Callable[[str, Tensor], None]  # is shown each tensor of a step as it is computed


@dataclass(frozen=True)
class Input:
    """An input of a lane: fp32 or int32."""

    shape: Shape
    dtype: torch.dtype = torch.int32


class Model(Protocol):
    """Parameters, forward and backward of one network; every buffer is allocated by the constructor.

    The static methods need no buffers. config is the recipe's bits.model, samples the samples of one lane.
    """

    config: Any
    memory: Memory
    flat: Flat
    observe: Observer | None

    def __init__(
        self, config: Any, micro_batch: int, *, lane_samples: int = 0, recompute: bool = False, training: bool = True,
        decode_batch: int = 0, flat_multiple: int = 1, memory: Memory | None = None, numerics: str = "fp32",
    ) -> None:  # fmt: skip
        """micro_batch: the most samples of one call. lane_samples: the most of one lane (default: micro_batch).

        recompute: less memory, more time. training=False: no buffers for gradients. decode_batch > 0: generate that
        many sequences, where the model can. flat_multiple: of the flat space, see Flat. memory: where buffers come
        from. numerics: of products and attention, as in the recipe.
        """

    @property
    def parameters(self) -> Tensor:
        """[flat.size]; to be asked for again whenever it is written, since what is made of weights may be kept."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """Views of parameters; to be asked for again whenever one is written."""

    @staticmethod
    def table(config: Any) -> dict[str, Parameter]:
        """Parameters in canonical order: the order of the flat space and of every digest."""

    @staticmethod
    def inputs(config: Any, samples: int) -> dict[str, Input]:
        """What a lane reads."""

    @staticmethod
    def lane(config: Any, arrays: Arrays) -> dict[str, Tensor]:
        """The values of `inputs`, on the host, from the samples of a lane."""

    @staticmethod
    def shown(config: Any, samples: int) -> dict[str, Shape]:
        """Names and shapes of what a lane shows an observer, in order, whatever the micro-batch."""

    def new_flat(self) -> Tensor:
        """A zeroed buffer [flat.size]: for gradients."""

    def initialise(self, seed: int, init: Init) -> None:
        """Weights before step 1; UserError for a kind of init that is not this model's."""

    def begin_lane(self, lane: Inputs) -> None:
        """Start a lane on the device."""

    def accumulate(
        self, lane: Inputs, part: slice, grads: Tensor, loss_scale: float, done: Callable[[str], None] | None = None
    ) -> Tensor:
        """Forward and backward of the samples `part` of the lane; returns their losses, a buffer that the next call
        overwrites.

        grads (flat) is continued: every sum over samples goes on from what it holds. loss_scale: factor of each loss.
        done(name) is called when the gradients of parameter `name` and of all after it are complete for this call.
        """

    def finish_lane(self, lane: Inputs, grads: Tensor) -> None:
        """Complete the lane's gradients."""

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats of each unit; a buffer that the next call overwrites."""


class Generator(Model, Protocol):
    """A model of sequences, which can go on from what it has read."""

    def decode(self, tokens: Tensor, position: int) -> Tensor:
        """Logits [b, Vp] after the last of tokens [b, t], which stand at position .. position + t - 1."""

    def logits(self, tokens: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Logits [last - first, Vp] after the tokens first .. last - 1 of [b * t]; a buffer, piece after piece."""


class Classifier(Model, Protocol):
    """A model of labelled images."""

    def logits(self, pixels: Tensor) -> Tensor:
        """[n, classes] of pixels [n, …]; a buffer that the next call overwrites."""


def model_of(config: Config) -> type[Model]:
    """The class of a recipe's model: pipeline/models/<kind>.py has it under the name of its schema."""
    found: type[Model] = getattr(import_module(f"pipeline.models.{config.kind}"), type(config).__name__)
    return found


def int32(array: NDArray[Any]) -> Tensor:
    """An array as an int32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int32))
