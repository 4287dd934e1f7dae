"""Gradients of causal multi-head attention. Kernels: cpu/attention_backward.cpp, kernels/attention_backward.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def attention_backward(
    dqkv: Tensor, dout: Tensor, out: Tensor, qkv: Tensor, row_max: Tensor, row_sum: Tensor, heads: int
) -> None:
    """dqkv [B, T, 3C] of dout [B, T, C]. Order: dq in key order, dk and dv in query order, all chains."""
    compiled.attention_backward.default(dqkv, dout, out, qkv, row_max, row_sum, heads)
