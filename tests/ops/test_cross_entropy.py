"""pytest tests/ops/test_cross_entropy.py

The loss and its gradient against float64, and the loss against its scalar specification.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from cuda_ops import ops
from tests.bits import F, assert_bits_equal, fold, hostile


def unary(x: torch.Tensor, function: str) -> torch.Tensor:
    out = torch.empty_like(x)
    ops.unary(out, x, function)
    return out


@pytest.mark.parametrize(("v", "vp"), [(1, 1), (5, 8), (65, 80), (1000, 1024)])
def test_cross_entropy_and_its_gradient(v: int, vp: int) -> None:
    n = 7
    logits = torch.randn(n, vp) * 5
    targets = torch.randint(0, v, (n,), dtype=torch.int32)
    losses, fused_losses, fused = torch.empty(n), torch.empty(n), logits.clone()
    ops.cross_entropy_forward(losses, logits, targets, v)
    ops.cross_entropy_fused(fused_losses, fused, targets, 0.25, v)
    assert_bits_equal(fused_losses, losses, "fused losses")
    exact = logits[:, :v].double().requires_grad_()
    loss = functional.cross_entropy(exact, targets.long(), reduction="none")
    (loss.sum() * 0.25).backward()
    torch.testing.assert_close(losses.double(), loss.detach(), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(fused[:, :v].double(), exact.grad, rtol=1e-5, atol=1e-7)
    assert (fused[:, v:] == 0).all()


def test_cross_entropy_is_its_specification() -> None:
    x = hostile(1, 70).clamp(-20, 20)
    losses = torch.empty(1)
    ops.cross_entropy_forward(losses, x, torch.tensor([3], dtype=torch.int32), 70)
    row = x[0].numpy()
    e = unary(torch.from_numpy(row - row.max()), "exp").numpy()
    total = torch.tensor([fold(70, lambda p, i: F(p + e[i]))])
    assert losses[0].item() == F(unary(total, "log")[0].numpy() - F(row[3] - row.max()))
