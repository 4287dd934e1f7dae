"""The gradient norm. Kernels: cpu/norm.cpp, kernels/norm.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled

# Scalars per chunk of the flat parameter space; kNormChunk of numerics/order.h.
NORM_CHUNK = 4096


def norm_partials(partials: Tensor, x: Tensor, chunk: int = NORM_CHUNK) -> None:
    """partials [ceil(n / chunk)] = sum of squares of each chunk of x [n], a row reduction of fma each."""
    compiled.norm_partials.default(partials, x, chunk)


def tree_sum(out: Tensor, x: Tensor) -> None:
    """out [1] = pairwise tree over x [n]: (0,1)(2,3)..., an odd last element moves up unchanged."""
    compiled.tree_sum.default(out, x)
