"""pytest tests/ops/test_sums.py

Sums over a few numbers against numpy fp32: one chain, and a pairwise tree whose odd last element moves up.
"""

from __future__ import annotations

import pytest
import torch

from cuda_ops import ops
from tests.bits import F, hostile

COUNTS = [0, 1, 2, 3, 6, 33, 1000]


def numbers(n: int) -> torch.Tensor:
    return hostile(n, seed=n).clamp(-1e3, 1e3) if n else torch.empty(0)


@pytest.mark.parametrize("n", COUNTS)
def test_a_chain_is_continued_in_order(n: int) -> None:
    x, total = numbers(n), torch.tensor([0.3])
    ops.chain_sum(total, x)
    expected = F(0.3)
    for value in x.numpy():
        expected = F(expected + value)
    assert total.item() == expected


@pytest.mark.parametrize("n", COUNTS)
def test_a_tree_goes_by_pairs(n: int) -> None:
    x, total = numbers(n), torch.full((1,), torch.nan)
    ops.tree_sum(total, x)
    level = list(x.numpy()) or [F(0)]
    while len(level) > 1:
        level = [F(sum(level[i : i + 2], F(0))) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
    assert total.item() == level[0]


def test_chain_and_tree_differ() -> None:
    """The control: the order of a sum can be seen."""
    x, sums = torch.tensor([1e8, 1.0, -1e8, 1.0]), torch.zeros(2)
    ops.chain_sum(sums[:1], x)
    ops.tree_sum(sums[1:], x)
    assert sums.tolist() == [1.0, 0.0]
