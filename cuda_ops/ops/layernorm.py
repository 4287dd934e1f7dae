"""LayerNorm (Ba, Kiros and Hinton 2016, equation 4). Kernels: cpu/layernorm.cpp, kernels/layernorm.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def layernorm_forward(
    out: Tensor, mean: Tensor, rstd: Tensor, inp: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> None:
    """out = (inp - mean) rstd weight + bias over the last dimension; mean and rstd one per row.

    Order: mean and variance are row reductions; rstd = 1 / sqrt(variance + eps).
    """
    compiled.layernorm_forward.default(out, mean, rstd, inp, weight, bias, eps)


def layernorm_backward(
    dinp: Tensor, dweight: Tensor, dbias: Tensor, dout: Tensor, dresidual: Tensor | None, inp: Tensor, weight: Tensor,
    mean: Tensor, rstd: Tensor,
) -> None:  # fmt: skip
    """dinp [B, T, C] = (dresidual or 0) + gradient; dweight, dbias [C] are continued.

    Order: the two means of a row are row reductions, dweight and dbias column reductions, sequences in order. dinp may
    be dout or dresidual itself.
    """
    compiled.layernorm_backward.default(dinp, dweight, dbias, dout, dresidual, inp, weight, mean, rstd)
