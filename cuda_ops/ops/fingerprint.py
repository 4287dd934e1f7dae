"""An integer sum over the bits of tensors. Kernels: cpu/fingerprint.cpp, kernels/fingerprint.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def fingerprint(x: Tensor, offset: int = 0) -> int:
    """Unsigned 64-bit sum over the words of x (fp32 or int32) at positions offset + i; shards add up mod 2^64.

    On a GPU it waits for the result.
    """
    return int(compiled.fingerprint.default(x, offset)) % 2**64


def fingerprint_into(out: Tensor, x: Tensor, offset: int = 0) -> None:
    """out [1] int64 on x's device = fingerprint(x, offset) as a signed number; waits for nothing, so a graph can hold it."""
    compiled.fingerprint_into.default(out, x, offset)
