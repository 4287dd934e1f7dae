"""Gradients of causal attention in digits. Kernel: cpu/attention_digits_backward.cpp."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def attention_digits_backward(
    dqkv: Tensor, dout: Tensor, out: Tensor, qkv: Tensor, row_max: Tensor, row_sum: Tensor, heads: int, tier: str
) -> None:
    """dqkv [B, T, 3C] of dout [B, T, C], as attention_backward. Order: dq over blocks of 128 keys, dk and dv over
    blocks of 128 queries, ascending."""
    compiled.attention_digits_backward.default(dqkv, dout, out, qkv, row_max, row_sum, heads, tier)
