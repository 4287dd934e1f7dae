"""GELU in its tanh form (Hendrycks and Gimpel 2016). Kernels: cpu/gelu.cpp, kernels/gelu.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def gelu_forward(out: Tensor, inp: Tensor) -> None:
    """out = inp / (1 + exp(-2u)), u = sqrt(2/pi) (inp + 0.044715 inp^3); any shape, element by element."""
    compiled.gelu_forward.default(out, inp)


def gelu_backward(dinp: Tensor, dout: Tensor, inp: Tensor) -> None:
    """dinp = dout gelu'(inp); dinp may be dout itself."""
    compiled.gelu_backward.default(dinp, dout, inp)
