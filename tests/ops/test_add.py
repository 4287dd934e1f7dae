"""pytest tests/ops/test_add.py

out = a + b against numpy fp32, whose addition is IEEE; in place on either side.
"""

from __future__ import annotations

import pytest
import torch

from cuda_ops import ops
from tests.bits import assert_bits_equal, hostile


@pytest.mark.parametrize("n", [0, 1, 7, 1030])
def test_add_is_one_rounded_addition(n: int) -> None:
    a, b = (hostile(n, seed=seed) if n else torch.empty(0) for seed in (1, 2))
    expected = torch.from_numpy(a.numpy() + b.numpy())
    out = torch.full((n,), torch.nan)
    ops.add(out, a, b)
    assert_bits_equal(out, expected)
    for own in (0, 1):
        pair = [a.clone(), b.clone()]
        ops.add(pair[own], *pair)
        assert_bits_equal(pair[own], expected, f"in place of {'ab'[own]}")
