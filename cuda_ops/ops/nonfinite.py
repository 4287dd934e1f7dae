"""The first NaN or Inf of a tensor. Kernels: cpu/nonfinite.cpp, kernels/nonfinite.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def first_nonfinite(x: Tensor) -> int:
    """Index of the first NaN or Inf of x in flat order, or -1. On a GPU it waits for the result."""
    return int(compiled.first_nonfinite.default(x))


def first_nonfinite_into(out: Tensor, x: Tensor) -> None:
    """out [1] int64 on x's device = first_nonfinite(x); waits for nothing."""
    compiled.first_nonfinite_into.default(out, x)
