"""Loss, gradient norm and clipping factor of a step. Kernels: cpu/step_scalars.cpp, kernels/step_scalars.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def step_scalars(loss_and_norm: Tensor, factor: Tensor, totals: Tensor, loss_scale: float, clip_norm: float) -> None:
    """loss_and_norm [2] and factor [1], AdamW's of the gradient, from totals [2], summed losses and squares.

    loss = totals[0] loss_scale, norm = sqrt(totals[1]); factor 1 if norm <= clip_norm, else clip_norm / norm (Pascanu,
    Mikolov and Bengio 2013, algorithm 1); NaN if loss or norm is not finite. One rounding each.
    """
    compiled.step_scalars.default(loss_and_norm, factor, totals, loss_scale, clip_norm)
