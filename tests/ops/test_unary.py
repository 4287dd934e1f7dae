"""pytest tests/ops/test_unary.py

The elementary functions against float64, and at their ends.
"""

from __future__ import annotations

import math

import torch

from cuda_ops import ops
from tests.bits import F, assert_bits_equal


def unary(x: torch.Tensor, function: str) -> torch.Tensor:
    out = torch.empty_like(x)
    ops.unary(out, x, function)
    return out


def test_elementary_functions_within_their_error() -> None:
    """Against float64 over all exponents: exp and log within 1.5 ulp, sqrt exact, cos and sin of a turn within 1.2e-7."""

    def ulps(got: torch.Tensor, want: torch.Tensor) -> float:
        size = torch.exp2(torch.floor(torch.log2(want.abs())).clamp(-126) - 23)
        return ((got.double() - want) / size).abs().max().item()

    every = torch.arange(0, 2**32, 4099, dtype=torch.int64).to(torch.int32).view(torch.float32)
    x = every[(every.abs() < 88.7) & every.isfinite()]
    inner = x[(x > -87) & (x != 0)]
    assert ulps(unary(inner, "exp"), inner.double().exp()) < 1.5
    positive = every[(every > 0) & every.isfinite() & (every != 1)]
    assert ulps(unary(positive, "log"), positive.double().log()) < 1.5
    assert_bits_equal(unary(positive, "sqrt"), positive.double().sqrt().float(), "sqrt")
    u = torch.arange(0, 2**24, 97).float() * 2**-24
    assert (unary(u, "cos_turn").double() - torch.cos(2 * math.pi * u.double())).abs().max() < 1.2e-7
    assert (unary(u, "sin_turn").double() - torch.sin(2 * math.pi * u.double())).abs().max() < 1.2e-7


def test_elementary_functions_at_their_ends() -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([-inf, -200.0, -103.9, 0.0, -0.0, 88.8, inf, nan])
    assert unary(x, "exp").tolist()[:7] == [0.0, 0.0, 2**-149, 1.0, 1.0, inf, inf]
    assert math.isnan(unary(x, "exp")[7])
    assert unary(torch.tensor([0.0, 1.0, inf]), "log").tolist() == [-inf, 0.0, inf]
    assert unary(torch.tensor([-1.0, nan]), "log").isnan().all()
    far = torch.tensor([-1e30, -20.0, 20.0, 1e30])
    assert unary(far, "gelu").tolist() == [0.0, 0.0, 20.0, F(1e30)]
    assert unary(far, "gelu_derivative").tolist() == [0.0, 0.0, 1.0, 1.0]
