"""pytest tests/ops/test_bias.py

The gradient of a bias against its scalar specification.
"""

from __future__ import annotations

import torch

from cuda_ops import ops
from tests.bits import F, fold, hostile


def test_bias_gradient_is_its_specification() -> None:
    x, start = hostile(3, 70, 5), torch.randn(5)
    got = start.clone()
    ops.bias_backward(got, x)
    for c in range(5):
        total = F(start[c].item())
        for b in range(3):
            column = x[b, :, c].numpy()
            total = F(total + fold(70, lambda p, i, column=column: F(p + column[i])))
        assert got[c].item() == total
