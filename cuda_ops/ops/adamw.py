"""AdamW (Loshchilov and Hutter 2019, algorithm 2). Kernels: cpu/adamw.cpp, kernels/adamw.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def adamw(
    param: Tensor, m: Tensor, v: Tensor, grad: Tensor, grad_scale: float, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, correction1: float, correction2: float,
) -> None:  # fmt: skip
    """One update in place; correction1 = 1 - beta1^t, correction2 = 1 - beta2^t. Expression: numerics/optimizer.h."""
    compiled.adamw.default(param, m, v, grad, grad_scale, lr, beta1, beta2, eps, weight_decay, correction1, correction2)
