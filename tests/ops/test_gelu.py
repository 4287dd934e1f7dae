"""pytest tests/ops/test_gelu.py

GELU against PyTorch, and its derivative against float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from cuda_ops import ops


def test_gelu_agrees_with_pytorch_and_its_derivative_with_float64() -> None:
    x = torch.linspace(-9, 9, 10001)
    out, dinp = torch.empty_like(x), torch.empty_like(x)
    ops.gelu_forward(out, x)
    exact = x.double().requires_grad_()
    y = functional.gelu(exact, approximate="tanh")
    y.sum().backward()
    torch.testing.assert_close(out.double(), y.detach(), rtol=1e-5, atol=1e-7)
    ops.gelu_backward(dinp, torch.ones_like(x), x)
    torch.testing.assert_close(dinp.double(), exact.grad, rtol=1e-5, atol=3e-6)
