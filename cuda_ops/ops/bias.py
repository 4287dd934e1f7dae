"""The gradient of a bias. Kernels: cpu/bias.cpp, kernels/bias.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def bias_backward(dbias: Tensor, dout: Tensor) -> None:
    """dbias [C] += column sums of dout [B, T, C]: a column reduction per sequence, sequences in order."""
    compiled.bias_backward.default(dbias, dout)
