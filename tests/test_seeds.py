"""pytest tests/test_seeds.py

What torch draws in a test depends on nothing that ran before it (conftest.py).
"""

from __future__ import annotations

import pytest
import torch

from tests.conftest import SEED


@pytest.mark.parametrize("time", ["first", "second"])
def test_torch_draws_the_same_in_every_test(time: str) -> None:
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(SEED))), time
