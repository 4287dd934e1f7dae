"""Matrix products in digits, tiers int8x3 and int8x1. Kernel: cpu/matmul_digits.cpp."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled
from cuda_ops.ops.matmul import _rows


def matmul_digits(
    out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, layout: str, accumulate: bool, tier: str, sequence: int = 0
) -> None:
    """out [M, N] = A B (+ bias [N]); layouts and leading dimensions as in matmul.

    Both operands are cut along K in blocks of 128 that, with sequence > 0 (layout "tn" only), begin anew every
    `sequence` of K. Order: a block's sums are exact; blocks ascending, from +0, or from out if accumulate; the bias is
    added to the finished chain.
    """
    compiled.matmul_digits.default(_rows(out), _rows(a), b, bias, layout, accumulate, tier, sequence)


def matmul_kept_digits(out: Tensor, a: Tensor, kept: Tensor, bias: Tensor | None, tier: str) -> None:
    """The same of a [M, K] and what ops.digits has made of N rows of K: the bits of matmul_digits, nt or nn."""
    compiled.matmul_kept_digits.default(_rows(out), _rows(a), kept, bias, tier)
