"""Gradient clipping by the global norm (Pascanu, Mikolov and Bengio 2013, algorithm 1). Kernel: cpu/clip.cpp."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def clip(report: Tensor, scalars: Tensor, totals: Tensor, loss_scale: float, clip_norm: float) -> None:
    """From totals [2], the summed loss and the sum of squares: report [2] = loss and norm, scalars[0] = AdamW's factor.

    The factor is 1 if norm <= clip_norm, else clip_norm / norm; NaN if loss or norm is not finite. One rounding each.
    """
    compiled.clip.default(report, scalars, totals, loss_scale, clip_norm)
