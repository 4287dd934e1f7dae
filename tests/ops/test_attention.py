"""pytest tests/ops/test_attention.py

Attention against an exact scalar reference written from docs/numerics.md, and itself decoded token by token from a KV
cache; threads and company, with the gradients.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import ops, runtime
from tests.bits import F, assert_bits_equal, chain


def exp32(x: np.ndarray) -> np.ndarray:
    out = torch.empty(len(x))
    ops.unary(out, torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)), "exp")
    return out.numpy()


def forward(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    b, t, c3 = qkv.shape
    out = torch.empty(b, t, c3 // 3)
    row_max, row_sum = torch.empty(b, heads, t), torch.empty(b, heads, t)
    ops.attention_forward(out, row_max, row_sum, qkv, heads)
    return out, row_max, row_sum


def reference(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """One exact chain at a time."""
    b, t, c3 = qkv.shape
    c, size = c3 // 3, c3 // 3 // heads
    x, out = qkv.numpy(), np.zeros((b, t, c3 // 3), dtype=np.float32)
    scale = F(1) / np.sqrt(F(size))
    for n in range(b):
        for h in range(heads):
            q, k, v = (x[n, :, part * c + h * size : part * c + (h + 1) * size] for part in range(3))
            for i in range(t):
                scores = np.array([chain(q[i], k[j]) * scale for j in range(i + 1)], dtype=np.float32)
                weights = exp32(scores - scores.max())
                total = F(0)
                for weight in weights:
                    total = total + weight
                inverse = F(1) / total
                for d in range(size):
                    out[n, i, h * size + d] = chain(weights, v[: i + 1, d]) * inverse
    return torch.from_numpy(out)


@pytest.mark.parametrize(("b", "t", "heads", "size"), [(1, 1, 1, 1), (2, 5, 2, 3), (1, 19, 1, 8), (1, 10, 2, 17)])
def test_equal_to_the_scalar_reference(b: int, t: int, heads: int, size: int) -> None:
    qkv = torch.randn(b, t, 3 * heads * size, generator=torch.Generator().manual_seed(t))
    assert_bits_equal(forward(qkv, heads)[0], reference(qkv, heads), "out")


@given(st.sampled_from([2, 7, 8, 9, 33, 50]), st.sampled_from([1, 8, 32, 40]), st.integers(1, 49))
def test_decoding_gives_the_bits_of_the_full_forward(t: int, size: int, prefill: int) -> None:
    heads, b = 2, 2
    prefill = min(prefill, t)
    qkv = torch.randn(b, t, 3 * heads * size, generator=torch.Generator().manual_seed(t + size))
    full = forward(qkv, heads)[0]
    keys, values = torch.zeros(b, heads, t, size), torch.zeros(b, heads, t, size)
    pieces = [(0, prefill), *((i, i + 1) for i in range(prefill, t))]
    for first, last in pieces:
        out = torch.empty(b, last - first, heads * size)
        ops.attention_cached(out, keys, values, qkv[:, first:last].contiguous(), heads, first)
        assert_bits_equal(out, full[:, first:last], f"positions {first} to {last}")


def test_threads_and_company_do_not_matter() -> None:
    qkv, dout = torch.randn(5, 70, 3 * 64), torch.randn(5, 70, 64)
    results = []
    for threads in (1, 2, 3):
        runtime.set_threads(threads)
        out, row_max, row_sum = forward(qkv, 4)
        dqkv = torch.empty_like(qkv)
        ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, 4)
        results.append((out, dqkv))
    for out, dqkv in results[1:]:
        assert_bits_equal(out, results[0][0], "out")
        assert_bits_equal(dqkv, results[0][1], "dqkv")
    assert_bits_equal(forward(qkv[3:4].contiguous(), 4)[0][0], results[0][0][3], "sequence 3 alone")


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, 1e15])
def test_hostile_scores(value: float) -> None:
    """Equal maxima, zeros of both signs, subnormals, huge scores: finite, and the cached path agrees."""
    qkv = torch.full((1, 40, 3 * 8), value)
    qkv[:, ::3, :8] = -qkv[:, ::3, :8]
    out, _, row_sum = forward(qkv, 1)
    assert torch.isfinite(out).all()
    assert (row_sum >= 1).all()
    cached = torch.empty_like(out)
    ops.attention_cached(cached, torch.zeros(1, 1, 40, 8), torch.zeros(1, 1, 40, 8), qkv, 1, 0)
    assert_bits_equal(cached, out, "cached")


def test_a_left_out_key_is_seen() -> None:
    """The control: attention that loses one key must not pass."""
    qkv = torch.randn(1, 20, 24)
    wrong = qkv.clone()
    wrong[0, 3, 16:] = 0
    with pytest.raises(AssertionError, match="elements differ, first at \\(0, 3"):
        assert_bits_equal(forward(wrong, 1)[0], forward(qkv, 1)[0], "out")
