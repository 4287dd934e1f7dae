"""Sums over a few numbers. Kernels: cpu/sums.cpp, kernels/sums.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def chain_sum(total: Tensor, losses: Tensor) -> None:
    """total [1] continues a chain of additions over losses in index order."""
    compiled.chain_sum.default(total, losses)


def tree_sum(out: Tensor, x: Tensor) -> None:
    """out [1] = pairwise tree over x [n]: (0,1)(2,3)..., an odd last element moves up unchanged."""
    compiled.tree_sum.default(out, x)
