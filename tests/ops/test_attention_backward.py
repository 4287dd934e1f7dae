"""pytest tests/ops/test_attention_backward.py

Attention and its gradients against float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import ops
from tests.ops.test_attention import forward


@given(
    st.integers(1, 3),
    st.sampled_from([1, 2, 7, 8, 9, 17, 33, 65]),
    st.integers(1, 3),
    st.sampled_from([1, 3, 8, 16, 32, 40]),
)
def test_gradients_agree_with_float64(b: int, t: int, heads: int, size: int) -> None:
    generator = torch.Generator().manual_seed(b * t)
    qkv = torch.randn(b, t, 3 * heads * size, generator=generator)
    dout = torch.randn(b, t, heads * size, generator=generator)
    out, row_max, row_sum = forward(qkv, heads)
    dqkv = torch.empty_like(qkv)
    ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, heads)
    exact = qkv.double().requires_grad_()
    q, k, v = (part.view(b, t, heads, size).transpose(1, 2) for part in exact.split(heads * size, dim=2))
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1)
    y.backward(dout.double())
    torch.testing.assert_close(out.double(), y.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dqkv.double(), exact.grad, rtol=1e-4, atol=2e-5)
