"""The gradient norm. Kernels: cpu/norm.cpp, kernels/norm.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled

# Scalars per chunk of the flat parameter space.
NORM_CHUNK = 4096


def norm_partials(partials: Tensor, x: Tensor, chunk: int = NORM_CHUNK) -> None:
    """partials [ceil(n / chunk)] = sum of squares of each chunk of x [n], a row reduction of fma each."""
    compiled.norm_partials.default(partials, x, chunk)
