"""Optimizers: named state on the shard of a rank, the scalars of a step, the update.

A checkpoint holds the state as optimizer.<state>.<parameter> (stored.py names the states). Learning rate factors and
weight decay come from the model's table.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cuda_ops import ops
from pipeline import recipe
from pipeline.machine.memory import Memory
from pipeline.models.flat import Flat, Parameter, Piece
from pipeline.training.schedule import bias_correction
from pipeline.training.stored import STATES


class AdamW:
    """Loshchilov and Hutter 2019, algorithm 2, with the gradient's norm clipped."""

    STATE = STATES["adamw"]  # the first and second moments

    def __init__(self, config: recipe.AdamW, flat: Flat, pieces: list[Piece], memory: Memory) -> None:
        """pieces: of the flat space, which are this rank's shard."""
        self.config = config
        size = sum(piece.end - piece.begin for piece in pieces)
        self.state = {name: memory.zeros(size) for name in self.STATE}
        self._ranges = [  # in the shard, in the flat space, and the key
            (piece.at + a, piece.begin + a, b - a, key)
            for piece in pieces
            for a, b, key in flat.ranges(piece.begin, piece.end, key=lambda each: (each.rate, each.decay))
        ]
        self._rates = sorted({rate for *_, (rate, _) in self._ranges})
        self._factor = memory.zeros(1)  # what clips the gradient, made on the device
        # Per factor of the learning rate: the learning rate and two corrections, which the host copies to the device
        # before the step, outside its graph.
        self._scalars = memory.zeros(len(self._rates), 3)
        self._host = memory.staging(len(self._rates), 3)

    def load(self, step: int, lr: float) -> None:
        """Put a step's scalars on the device; does not wait. The step before must be over: it may read the host's
        copy."""
        corrections = [bias_correction(beta, step) for beta in (self.config.beta1, self.config.beta2)]
        rows = [[float(np.float32(rate * lr)), *corrections] for rate in self._rates]
        self._host.copy_(torch.tensor(rows))
        self._scalars.copy_(self._host, non_blocking=True)

    def scale(self, report: Tensor, totals: Tensor, loss_scale: float) -> None:
        """report [2] = loss and norm from totals [2], and the factor that clips the gradient; NaN if not finite."""
        ops.step_scalars(report, self._factor, totals, loss_scale, self.config.clip_norm)

    def update(self, parameters: Tensor, gradient: Tensor) -> None:
        """The shard's part of the flat parameters, and its state, in place. A factor that is NaN changes nothing."""
        c, (m, v) = self.config, self.state.values()
        for a, at, count, (rate, decays) in self._ranges:
            b, scalars = a + count, self._scalars[self._rates.index(rate)]
            decay = c.weight_decay if decays else 0.0
            ops.adamw(
                parameters[at : at + count], m[a:b], v[a:b], gradient[a:b], self._factor, scalars, c.beta1, c.beta2,
                c.eps, decay,
            )  # fmt: skip

    @staticmethod
    def updated(
        config: recipe.AdamW, parameter: Parameter, before: Tensor, after: dict[str, Tensor], step: int, lr: float
    ) -> Tensor:
        """Weights after a step from those before it and the state after it, by the same kernel: beta = 1 keeps the
        state."""
        weights = before.clone().view(-1)
        m, v = (after[name].clone().view(-1) for name in AdamW.STATE)
        corrections = [bias_correction(beta, step) for beta in (config.beta1, config.beta2)]
        scalars = torch.tensor([float(np.float32(parameter.rate * lr)), *corrections])
        decay = config.weight_decay if parameter.decay else 0.0
        factor, gradient = torch.ones(1), torch.zeros_like(weights)
        ops.adamw(weights, m, v, gradient, factor, scalars, 1.0, 1.0, config.eps, decay)
        return weights.view(before.shape)


Optimizer = AdamW  # a union as soon as there is a second


def optimizer_of(config: recipe.AdamW) -> type[Optimizer]:
    """The class of a recipe's optimizer."""
    return {"adamw": AdamW}[config.kind]
