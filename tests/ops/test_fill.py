"""pytest tests/ops/test_fill.py

Normal numbers as a function of their index.
"""

from __future__ import annotations

import torch

from cuda_ops import ops
from tests.bits import assert_bits_equal


def test_normals_are_normal_and_a_function_of_their_index() -> None:
    x = torch.empty(200_000)
    ops.fill_normal(x, 2**63 + 5, 1, 10, 0.0, 1.0)
    for first, last in ((0, 1), (3, 8), (777, 1000)):
        part = torch.empty(last - first)
        ops.fill_normal(part, 2**63 + 5, 1, 10 + first, 0.0, 1.0)
        assert_bits_equal(part, x[first:last], f"{first} to {last}")
    assert abs(x.double().mean()) < 0.01
    assert abs(x.double().std() - 1) < 0.01
    assert abs((x.abs() < 1).double().mean() - 0.6827) < 0.005
    other = torch.empty(200_000)
    ops.fill_normal(other, 2**63 + 5, 2, 10, 0.0, 1.0)
    assert (other != x).double().mean() > 0.99
