"""Optimizers: named state on the shard of a rank, the scalars of a step, the update.

A checkpoint holds the state as optimizer.<state>.<parameter>. Learning rate factors and weight decay come from the
model's table. Nothing outside this file knows what an optimizer keeps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cuda_ops import ops
from pipeline import recipe
from pipeline.machine.memory import Memory
from pipeline.models.flat import Flat, Parameter
from pipeline.training.schedule import bias_correction

PREFIX = "optimizer."


class AdamW:
    """Loshchilov and Hutter 2019, algorithm 2, with the gradient's norm clipped."""

    STATE = ("m", "v")  # the first and second moments

    def __init__(self, config: recipe.AdamW, flat: Flat, shard: tuple[int, int], memory: Memory) -> None:
        self.config = config
        size = shard[1] - shard[0]
        self.state = {name: memory.zeros(size) for name in self.STATE}
        self._ranges = flat.ranges(*shard, key=lambda parameter: (parameter.rate, parameter.decay))
        self._rates = sorted({rate for _, _, (rate, _) in self._ranges})
        # Per factor of the learning rate: the gradient's factor, which the device computes, the learning rate and two
        # corrections, which the host copies there before the step, outside its graph.
        self._scalars = memory.zeros(len(self._rates), 4)
        self._host = memory.staging(len(self._rates), 4)

    def load(self, step: int, lr: float) -> None:
        """Put a step's scalars on the device; does not wait. The step before must be over: it may read the host's
        copy."""
        corrections = [bias_correction(beta, step) for beta in (self.config.beta1, self.config.beta2)]
        rows = [[0.0, float(np.float32(rate * lr)), *corrections] for rate in self._rates]
        self._host.copy_(torch.tensor(rows))
        self._scalars.copy_(self._host, non_blocking=True)

    def scale(self, report: Tensor, totals: Tensor, loss_scale: float) -> None:
        """report [2] = loss and norm from totals [2], and the factor that clips the gradient; NaN if they are not
        finite."""
        ops.clip(report, self._scalars[0], totals, loss_scale, self.config.clip_norm)
        for row in self._scalars[1:]:
            row[:1].copy_(self._scalars[0, :1])

    def update(self, parameters: Tensor, gradient: Tensor) -> None:
        """Parameters and state of the shard, in place. A factor that is NaN changes nothing."""
        c, (m, v) = self.config, self.state.values()
        for a, b, (rate, decays) in self._ranges:
            scalars = self._scalars[self._rates.index(rate)]
            decay = c.weight_decay if decays else 0.0
            ops.adamw(parameters[a:b], m[a:b], v[a:b], gradient[a:b], scalars, c.beta1, c.beta2, c.eps, decay)

    @staticmethod
    def updated(
        config: recipe.AdamW, parameter: Parameter, before: Tensor, after: dict[str, Tensor], step: int, lr: float
    ) -> Tensor:
        """Weights after a step from those before it and the state after it, by the same kernel: beta = 1 keeps the
        state."""
        weights = before.clone().view(-1)
        m, v = (after[name].clone().view(-1) for name in AdamW.STATE)
        corrections = [bias_correction(beta, step) for beta in (config.beta1, config.beta2)]
        scalars = torch.tensor([1.0, float(np.float32(parameter.rate * lr)), *corrections])
        decay = config.weight_decay if parameter.decay else 0.0
        ops.adamw(weights, m, v, torch.zeros_like(weights), scalars, 1.0, 1.0, config.eps, decay)
        return weights.view(before.shape)


Optimizer = AdamW  # a union as soon as there is a second


def optimizer_of(config: recipe.AdamW) -> type[Optimizer]:
    """The class of a recipe's optimizer."""
    return {"adamw": AdamW}[config.kind]


def state_prefixes(config: recipe.AdamW) -> list[str]:
    """What stands before a parameter's name in a checkpoint, for each state: optimizer.m., optimizer.v."""
    return [f"{PREFIX}{name}." for name in optimizer_of(config).STATE]
