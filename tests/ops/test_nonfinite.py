"""pytest tests/ops/test_nonfinite.py

The first NaN or Inf, however many threads look.
"""

from __future__ import annotations

import math

import torch

from cuda_ops import ops, runtime


def test_first_nonfinite_names_the_first() -> None:
    x = torch.zeros(100_000)
    assert ops.first_nonfinite(x) == -1
    x[[99_999, 70_000, 40_000]] = torch.tensor([math.nan, math.inf, -math.inf])
    assert ops.first_nonfinite(x) == 40_000
    for threads in (1, 3):
        runtime.set_threads(threads)
        assert ops.first_nonfinite(x) == 40_000
