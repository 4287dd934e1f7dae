"""pytest tests/ops/test_sample.py

Drawing tokens, decided by order and uniform.
"""

from __future__ import annotations

import torch

from cuda_ops import ops


def test_sampling_is_decided_by_order_and_uniform() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -1.0, 99.0]]).repeat(6, 1)  # the last column is padding
    uniforms = torch.tensor([0.0, 0.4, 0.6, 0.999, 0.5, 0.5])
    drawn = torch.empty(6, dtype=torch.int32)
    ops.sample(drawn, logits, uniforms, 4, 1.0, 0)
    assert drawn.tolist() == [1, 1, 2, 3, 2, 2]
    ops.sample(drawn, logits, uniforms, 4, 1.0, 2)
    assert drawn.tolist() == [1, 1, 2, 2, 2, 2]
    ops.sample(drawn, logits, uniforms, 4, 0.0, 0)
    assert drawn.tolist() == [1] * 6
