"""pytest tests/ops/test_step_scalars.py

Loss, norm and factor of a step in numpy fp32, whose operations are IEEE.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import ops
from tests.bits import F


@given(st.floats(0, 2.0**120, width=32), st.floats(0, 2.0**126, width=32), st.floats(2.0**-20, 8, width=32))
def test_the_scalars_of_a_step_are_fp32_arithmetic(loss: float, square: float, clip_norm: float) -> None:
    loss_and_norm, factor = torch.empty(2), torch.empty(1)
    ops.step_scalars(loss_and_norm, factor, torch.tensor([loss, square]), 0.1, clip_norm)
    norm = np.sqrt(F(square))
    assert loss_and_norm.tolist() == [F(loss) * F(0.1), norm]
    assert factor.item() == (F(1) if norm <= F(clip_norm) else F(clip_norm) / norm)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_a_factor_that_is_nan_marks_what_is_not_finite(bad: float) -> None:
    factor = torch.zeros(1)
    for totals in ([bad, 1.0], [1.0, bad]):
        ops.step_scalars(torch.empty(2), factor, torch.tensor(totals), 10.0, 1.0)
        assert factor.isnan().item() == (bad != 3e38 or totals[0] == bad), totals
