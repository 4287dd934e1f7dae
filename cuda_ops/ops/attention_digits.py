"""Causal multi-head attention in digits, tiers int8x3 and int8x1. Kernel: cpu/attention_digits.cpp."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def attention_digits_forward(out: Tensor, row_max: Tensor, row_sum: Tensor, qkv: Tensor, heads: int, tier: str) -> None:
    """As attention_forward; sums over features and keys in blocks of 128, keys by their position in the sequence.

    The scale of a token is its own, and that of a query's weights is taken over the keys it sees: what follows a
    position changes no bit of it.
    """
    compiled.attention_digits_forward.default(out, row_max, row_sum, qkv, heads, tier)


def attention_digits_cached(
    out: Tensor, key_cache: Tensor, value_cache: Tensor, qkv: Tensor, heads: int, position: int, tier: str
) -> None:
    """As attention_cached, with fp32 caches. The bits are those of attention_digits_forward over the whole sequence."""
    compiled.attention_digits_cached.default(out, key_cache, value_cache, qkv, heads, position, tier)
