"""AdamW (Loshchilov and Hutter 2019, algorithm 2). Kernels: cpu/adamw.cpp, kernels/adamw.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def adamw(
    param: Tensor, m: Tensor, v: Tensor, grad: Tensor, factor: Tensor, scalars: Tensor, beta1: float, beta2: float,
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """One update in place. Expression: numerics/adamw.h.

    factor [1]: what grad is scaled by; one that is NaN changes nothing. scalars [3] fp32: the learning rate,
    1 - beta1^t, 1 - beta2^t. Both are tensors where the parameters are, so that a captured step can be replayed.
    """
    compiled.adamw.default(param, m, v, grad, factor, scalars, beta1, beta2, eps, weight_decay)
