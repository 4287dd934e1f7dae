"""The elementary functions one by one, for tests of a backend. Kernels: cpu/unary.cpp, kernels/unary.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled

FUNCTIONS = ("exp", "log", "sqrt", "gelu", "gelu_derivative", "cos_turn", "sin_turn")


def unary(out: Tensor, inp: Tensor, function: str) -> None:
    """out = function(inp), element by element; cos_turn(u) = cos(2 pi u) for u in [0, 1)."""
    compiled.unary.default(out, inp, FUNCTIONS.index(function))
