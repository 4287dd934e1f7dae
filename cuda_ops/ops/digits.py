"""Operands in digits: blocks of 128 as 8-bit integers under one power of two. Kernel: cpu/digits.cpp."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def digits_bytes(rows: int, k: int, tier: str) -> int:
    """Bytes of the operand that `digits` makes of `rows` rows of k values; tier is int8x3 or int8x1."""
    return int(compiled.digits_bytes.default(rows, k, tier))


def digits(out: Tensor, x: Tensor, transposed: bool, tier: str) -> None:
    """out uint8 [digits_bytes] from x [rows, K], or transposed from x [K, rows], cut along K.

    A right operand of matmul_kept_digits: weights are cut once for all products until they change. No sum, so no order.
    """
    compiled.digits.default(out, x, transposed, tier)
