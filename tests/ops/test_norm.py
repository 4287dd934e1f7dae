"""pytest tests/ops/test_norm.py

The gradient norm against scalar references: chunks, then a tree.
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import ops
from tests.bits import F, fma, fold, hostile


@given(st.integers(1, 200), st.sampled_from([1, 7, 32, 64]))
def test_norm_is_chunks_then_a_tree(n: int, chunk: int) -> None:
    x = hostile(n, seed=n).clamp(-1e3, 1e3)
    partials, total = torch.empty(-(-n // chunk)), torch.empty(1)
    ops.norm_partials(partials, x, chunk)
    values = x.numpy()
    level = []
    for first in range(0, n, chunk):
        piece = values[first : first + chunk]
        level.append(fold(len(piece), lambda p, i, piece=piece: fma(piece[i], piece[i], p)))
    assert partials.tolist() == level
    ops.tree_sum(total, partials)
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        level = [F(a + b) for a, b in zip(level[0:-1:2], level[1::2], strict=True)] + odd if not odd else [
            *(F(a + b) for a, b in zip(level[0:-2:2], level[1:-1:2], strict=True)), *odd
        ]  # fmt: skip
    assert total.item() == level[0]
