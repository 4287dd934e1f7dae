"""Comparing bits, and exact scalar arithmetic for references."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import SupportsFloat

import numpy as np
import torch
from torch import Tensor


def assert_bits_equal(actual: Tensor, expected: Tensor, name: str = "tensor") -> None:
    """Equal shapes and bits; a failure names the first coordinate that differs, and both values."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    a, b = (t.contiguous().view(torch.int32) for t in (actual, expected))
    differs = torch.nonzero(a != b)
    if len(differs):
        at = tuple(differs[0].tolist())
        x, y = actual[at].item(), expected[at].item()
        left, right = (int(t[at].item()) & 0xFFFFFFFF for t in (a, b))
        raise AssertionError(
            f"{name}: {len(differs)} of {a.numel()} elements differ, first at {at}: {x!r} ({left:08x}), "
            f"expected {y!r} ({right:08x})"
        )


F = np.float32


def fma(x: SupportsFloat, y: SupportsFloat, z: SupportsFloat) -> np.float32:
    """fp32 fma by exact fractions, rounded once: to odd in double, then to fp32."""
    a, b, c = float(x), float(y), float(z)
    if not all(map(math.isfinite, (a, b, c))):
        with np.errstate(all="ignore"):
            return F(a * b + c)
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return F(a * b + c)  # only the sign of zero is left, and IEEE addition has it right
    near = float(exact)
    if Fraction(near) != exact:
        (bits,) = struct.unpack("<q", struct.pack("<d", near))
        if bits % 2 == 0:
            bits += 1 if (exact > Fraction(near)) == (near > 0) else -1
        (near,) = struct.unpack("<d", struct.pack("<q", bits))
    with np.errstate(over="ignore"):
        return F(near)


def chain(a: Iterable[SupportsFloat], b: Iterable[SupportsFloat], start: float = 0.0) -> np.float32:
    """fma over two sequences in order."""
    total = F(start)
    for x, y in zip(a, b, strict=True):
        total = fma(x, y, total)
    return total


def fold(values: int, step: Callable[..., np.float32]) -> np.float32:
    """A row reduction: 32 strided partials, then the tree; step(partial, i) as in cpu/row_sums.h."""
    p = [F(0)] * 32
    for i in range(values):
        p[i % 32] = step(p[i % 32], i)
    for width in (16, 8, 4, 2, 1):
        for j in range(width):
            p[j] = F(p[j] + p[j + width])
    return p[0]


def hostile(*shape: int, seed: int = 0) -> Tensor:
    """Normals with zeros of both signs, subnormals, large and tiny values and repeats strewn in."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator).view(-1)
    odd = torch.tensor([0.0, -0.0, 1e-40, -1e-42, 1e8, -1e8, 3e-20, 1.0, 1.0])
    where = torch.randperm(len(x), generator=generator)[: max(1, len(x) // 6)]
    x[where] = odd[torch.randint(len(odd), (len(where),), generator=generator)]
    return x.view(*shape)
