"""pytest tests/ops/test_attention_digits_backward.py

Gradients of attention in digits against the definition and against float64.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from cuda_ops import ops, runtime
from tests.bits import F, assert_bits_equal, chain
from tests.digits import TIERS, along_features, over_tokens
from tests.ops.test_attention import exp32
from tests.ops.test_attention_digits import forward, parts, random
from tests.ops.test_attention_digits import reference as forward_reference


def gradients(qkv: torch.Tensor, dout: torch.Tensor, heads: int, tier: str) -> torch.Tensor:
    out, row_max, row_sum = forward(qkv, heads, tier)
    dqkv = torch.empty_like(qkv)
    ops.attention_digits_backward(dqkv, dout, out, qkv, row_max, row_sum, heads, tier)
    return dqkv


def reference(qkv: torch.Tensor, dout: torch.Tensor, tier: str) -> torch.Tensor:
    """One head of one sequence, one operation at a time."""
    q, k, v, scale = parts(qkv)
    out, row_max, row_sum = (x.numpy()[0] for x in forward(qkv, 1, tier))
    dy, t = dout.numpy()[0], len(q)
    p, ds = np.zeros((t, t), np.float32), np.zeros((t, t), np.float32)
    for i in range(t):
        inverse, delta = F(1) / row_sum[0, i], chain(dy[i], out[i])
        scores = np.array([along_features(q[i], k[j], tier) * scale for j in range(i + 1)], dtype=np.float32)
        p[i, : i + 1] = exp32(scores - row_max[0, i]) * inverse
        for j in range(i + 1):
            ds[i, j] = p[i, j] * (along_features(dy[i], v[j], tier) - delta)
    dq = np.stack([over_tokens(ds[i, : i + 1], k[: i + 1], tier) * scale for i in range(t)])
    dk = np.stack([over_tokens(ds[j:, j], q[j:], tier, j) * scale for j in range(t)])
    dv = np.stack([over_tokens(p[j:, j], dy[j:], tier, j) for j in range(t)])
    return torch.from_numpy(np.concatenate([dq, dk, dv], axis=1))[None]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("t", "size"), [(1, 1), (19, 8), (18, 133), (132, 2)])
def test_equal_to_the_definition(t: int, size: int, tier: str) -> None:
    qkv, dout = random(t, size), random(t, size)[:, :, :size].contiguous()
    assert_bits_equal(gradients(qkv, dout, 1, tier), reference(qkv, dout, tier), "dqkv")


@pytest.mark.host("a GPU's heads have up to 256 channels")
def test_a_head_of_more_than_64_blocks() -> None:
    """As many blocks as the lengths of a product in digits are held for at once, and one more."""
    if runtime.isa() == "cuda_on_cpu":
        pytest.skip("a GPU's heads have up to 256 channels")
    qkv, dout = random(2, 8320), random(2, 8320)[:, :, :8320].contiguous()
    assert_bits_equal(forward(qkv, 1, "int8x1")[0], forward_reference(qkv, "int8x1"), "out")
    assert_bits_equal(gradients(qkv, dout, 1, "int8x1"), reference(qkv, dout, "int8x1"), "dqkv")


@pytest.mark.parametrize(("tier", "bound"), [("int8x3", 1e-3), ("int8x1", 6e-2)])
def test_gradients_agree_with_float64(tier: str, bound: float) -> None:
    b, t, heads, size = 2, 150, 2, 40
    generator = torch.Generator().manual_seed(t)
    qkv = torch.randn(b, t, 3 * heads * size, generator=generator)
    dout = torch.randn(b, t, heads * size, generator=generator)
    exact = qkv.double().requires_grad_()
    q, k, v = (part.view(b, t, heads, size).transpose(1, 2) for part in exact.split(heads * size, dim=2))
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1)
    y.backward(dout.double())
    assert exact.grad is not None
    found = gradients(qkv, dout, heads, tier).double()
    for mine, theirs in zip(found.chunk(3, dim=2), exact.grad.chunk(3, dim=2), strict=True):
        assert (mine - theirs).norm() / theirs.norm() < bound


def test_a_later_sequence_changes_nothing() -> None:
    qkv, dout = random(40, 8, b=3), random(40, 8, b=3)[:, :, :8].contiguous()
    alone = gradients(qkv[:1].contiguous(), dout[:1].contiguous(), 1, "int8x3")
    assert_bits_equal(gradients(qkv, dout, 1, "int8x3")[:1], alone, "the first sequence")
