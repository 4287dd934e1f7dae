"""Causal multi-head attention (Vaswani et al. 2017, section 3.2). Kernels: cpu/attention.cpp, kernels/attention.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def attention_forward(out: Tensor, row_max: Tensor, row_sum: Tensor, qkv: Tensor, heads: int) -> None:
    """out [B, T, C] from qkv [B, T, 3C]; row_max, row_sum [B, H, T] are kept for the backward pass.

    Order: scores are chains over the head's channels, then the exact maximum, then sums in key order; keys that a
    query may not see are skipped.
    """
    compiled.attention_forward.default(out, row_max, row_sum, qkv, heads)


def attention_cached(
    out: Tensor, key_cache: Tensor, value_cache: Tensor, qkv: Tensor, heads: int, position: int
) -> None:
    """Attention of T new tokens at position.. against caches [B, H, capacity, C/H], which are extended first.

    The bits are those of attention_forward over the whole sequence.
    """
    compiled.attention_cached.default(out, key_cache, value_cache, qkv, heads, position)
