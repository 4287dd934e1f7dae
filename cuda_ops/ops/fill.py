"""Random tensors as pure functions of (seed, stream, offset). Kernels: cpu/fill.cpp, kernels/fill.cu; numerics/philox.h."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def _signed(seed: int) -> int:
    return seed - 2**64 if seed >= 2**63 else seed


def fill_normal(out: Tensor, seed: int, stream: int, offset: int, mean: float, std: float) -> None:
    """out[i] = mean + std * normal(seed, stream, offset + i), Box and Muller over Philox words."""
    compiled.fill_normal.default(out, _signed(seed), stream, offset, mean, std)


def fill_uniform(out: Tensor, seed: int, stream: int, offset: int) -> None:
    """out[i] in [0, 1): the top 24 bits of Philox word (seed, stream, offset + i)."""
    compiled.fill_uniform.default(out, _signed(seed), stream, offset)
