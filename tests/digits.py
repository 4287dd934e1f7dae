"""Products in digits once more, from docs/numerics.md alone: exact integers, one fp32 operation at a time.

For tests: slow, and shares nothing with cuda_ops.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.bits import F
from tests.bits import fma as fma32

Array = NDArray[np.float32]
TIERS = {"int8x3": 2, "int8x1": 1}
BLOCK = 128
Digits = tuple[NDArray[np.int64], ...]  # hi and lo


def exponent(m: float) -> int | None:
    """E with 2^(E-1) <= m < 2^E, at least -100; None of a NaN or infinity."""
    if not np.isfinite(m):
        return None
    return max(-100, int(np.frexp(float(m))[1])) if m else -100


def largest(x: Array) -> float:
    return float("nan") if not np.isfinite(x).all() else float(np.abs(x).max(initial=0))


def cut(x: Array, e: int | None, tier: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The digits hi and lo of values under an exponent; y is exact in float64."""
    if e is None:
        return np.zeros(len(x), np.int64), np.zeros(len(x), np.int64)
    y = x.astype(np.float64) * 2.0 ** (7 - e)
    hi = np.clip(np.rint(y), -127, 127)
    lo = np.clip(np.rint((y - hi) * 256), -127, 127) if tier == "int8x3" else np.zeros(len(x))
    return hi.astype(np.int64), lo.astype(np.int64)


def scale(e: int | None, tier: str) -> np.float32:
    return F(np.nan) if e is None else F(2.0 ** (e - (11 if tier == "int8x3" else 7)))


def operand_in(
    operand: Tensor, rows: int, k: int, tier: str, on_a_cpu: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Digits [row][block][digit][128] and scales [row][block] of what ops.digits has made; rows are rounded up to 16.

    CPU: panels of 16 rows, [block][digit][32][16][4] with 128 added, then scales [block][16]. CUDA: blocks, [digit][8 rows]
    [8][8][16], then scales [row].
    """
    panels, blocks_, count = -(-rows // 16), -(-k // BLOCK), TIERS[tier]
    split = panels * blocks_ * count * 2048
    bytes_, scales = operand[:split], operand[split:].view(torch.float32)
    if on_a_cpu:
        ordered = bytes_.view(panels, blocks_, count, 32, 16, 4).permute(0, 4, 1, 2, 3, 5).to(torch.int64) - 128
        scales = scales.view(panels, blocks_, 16).transpose(1, 2)
    else:
        grouped = bytes_.view(torch.int8).view(blocks_, count, 2 * panels, 8, 8, 16)
        ordered = grouped.permute(2, 4, 0, 1, 3, 5).to(torch.int64)
        scales = scales.view(blocks_, 16 * panels).t()
    digits = ordered.reshape(16 * panels, blocks_, count, BLOCK)
    return digits.numpy(), scales.reshape(16 * panels, blocks_).contiguous().numpy()


def join(a: Digits, b: Digits, ea: int | None, eb: int | None, tier: str, acc: np.float32) -> np.float32:
    """The chain's next value: a block's sums, exact, and its scales."""
    hh = int((a[0] * b[0]).sum())
    t = F(hh)
    if tier == "int8x3":
        t = fma32(t, F(256), F(int((a[0] * b[1] + a[1] * b[0]).sum())))
    with np.errstate(all="ignore"):
        return fma32(F(t * scale(ea, tier)), scale(eb, tier), acc)


def blocks(k: int, sequence: int) -> Iterator[slice]:
    """Blocks of 128 that begin anew with every sequence."""
    for first in range(0, k, sequence or k):
        end = min(first + (sequence or k), k)
        for at in range(first, end, BLOCK):
            yield slice(at, min(at + BLOCK, end))


def product(a: Array, b: Array, tier: str, sequence: int = 0, start: Array | None = None) -> Array:
    """[M, N] of a [M, K] and b [N, K], continuing start."""
    out = np.zeros((len(a), len(b)), np.float32) if start is None else start.copy()
    for part in blocks(a.shape[1], sequence):
        left, right = ([(exponent(largest(row[part])), row[part]) for row in x] for x in (a, b))
        cut_left, cut_right = ([(e, cut(x, e, tier)) for e, x in side] for side in (left, right))
        for i, (ea, da) in enumerate(cut_left):
            for j, (eb, db) in enumerate(cut_right):
                out[i, j] = join(da, db, ea, eb, tier, out[i, j])
    return out


def over_tokens(weights: Array, rows: Array, tier: str, first: int = 0) -> Array:
    """[D]: the sum over tokens of weights[t] rows[t, D], a token's exponent folded into its weight.

    Tokens stand at `first` and after; blocks of 128 by their position.
    """
    acc = np.zeros(rows.shape[1], np.float32)
    at = 0
    while at < len(weights):
        end = min(at + BLOCK - (first + at) % BLOCK, len(weights))
        es = [exponent(largest(row)) for row in rows[at:end]]
        with np.errstate(all="ignore"):
            folds = np.array([np.nan if e is None else 2.0 ** (e - 7) for e in es], np.float32)
            folded = (weights[at:end] * folds).astype(np.float32)
        e = exponent(largest(folded))
        left = cut(folded, e, tier)
        tokens = [cut(row, ej, tier) for row, ej in zip(rows[at:end], es, strict=True)]
        for d in range(rows.shape[1]):
            right = tuple(np.array([token[n][d] for token in tokens]) for n in range(2))
            acc[d] = join(left, right, e, 7, tier, acc[d])
        at = end
    return acc


def along_features(a: Array, b: Array, tier: str) -> np.float32:
    """A score: two rows of a head, one exponent each over all features, blocks of 128 features."""
    ea, eb = exponent(largest(a)), exponent(largest(b))
    da, db, acc = cut(a, ea, tier), cut(b, eb, tier), F(0)
    for part in blocks(len(a), 0):
        acc = join((da[0][part], da[1][part]), (db[0][part], db[1][part]), ea, eb, tier, acc)
    return acc
