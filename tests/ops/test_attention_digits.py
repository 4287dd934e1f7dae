"""pytest tests/ops/test_attention_digits.py

Attention in digits against the definition, itself decoded token by token, and with other tokens after it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cuda_ops import ops, runtime
from tests.bits import F, assert_bits_equal
from tests.digits import TIERS, along_features, over_tokens
from tests.ops.test_attention import exp32


def forward(qkv: torch.Tensor, heads: int, tier: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    b, t, c3 = qkv.shape
    out, row_max, row_sum = torch.empty(b, t, c3 // 3), torch.empty(b, heads, t), torch.empty(b, heads, t)
    ops.attention_digits_forward(out, row_max, row_sum, qkv, heads, tier)
    return out, row_max, row_sum


def parts(qkv: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
    """q, k, v of one head of one sequence, and its scale."""
    size = qkv.shape[2] // 3
    q, k, v = (qkv[0, :, n * size : (n + 1) * size].numpy() for n in range(3))
    return q, k, v, F(1) / np.sqrt(F(size))


def reference(qkv: torch.Tensor, tier: str) -> torch.Tensor:
    """One head of one sequence, one operation at a time."""
    q, k, v, scale = parts(qkv)
    out = np.zeros_like(q)
    for i in range(len(q)):
        scores = np.array([along_features(q[i], k[j], tier) * scale for j in range(i + 1)], dtype=np.float32)
        weights = exp32(scores - scores.max())
        total = F(0)
        for weight in weights:
            total = total + weight
        out[i] = over_tokens(weights, v[: i + 1], tier) * (F(1) / total)
    return torch.from_numpy(out)[None]


def random(t: int, size: int, heads: int = 1, b: int = 1) -> torch.Tensor:
    x = torch.randn(b, t, 3 * heads * size, generator=torch.Generator().manual_seed(t + size))
    x[:, ::7] *= 16  # scales that differ from token to token
    return x


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("t", "size"), [(1, 1), (19, 8), (18, 133), (132, 2)])
def test_equal_to_the_definition(t: int, size: int, tier: str) -> None:
    qkv = random(t, size)
    assert_bits_equal(forward(qkv, 1, tier)[0], reference(qkv, tier), "out")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("t", "size", "prefill"), [(2, 8, 1), (50, 32, 17), (140, 40, 126)])
def test_decoding_gives_the_bits_of_the_full_forward(t: int, size: int, prefill: int, tier: str) -> None:
    qkv = random(t, size, heads=2, b=2)
    full = forward(qkv, 2, tier)[0]
    keys, values = torch.zeros(2, 2, t, size), torch.zeros(2, 2, t, size)
    for first, last in [(0, prefill), *((i, i + 1) for i in range(prefill, t))]:
        out = torch.empty(2, last - first, 2 * size)
        ops.attention_digits_cached(out, keys, values, qkv[:, first:last].contiguous(), 2, first, tier)
        assert_bits_equal(out, full[:, first:last], f"positions {first} to {last}")


@pytest.mark.parametrize("tier", TIERS)
def test_later_tokens_change_no_earlier_bit(tier: str) -> None:
    """Not even ones so large that a scale that saw them would lose everything before, nor a NaN."""
    qkv = random(150, 24, heads=2)
    full = forward(qkv, 2, tier)[0]
    for at in (1, 64, 130, 149):
        for value in (1e30, float("nan")):
            other = qkv.clone()
            other[:, at:] = value
            assert_bits_equal(forward(other, 2, tier)[0][:, :at], full[:, :at], f"{value} from {at} on")
    other = qkv.clone()
    other[:, 3] += 1
    with pytest.raises(AssertionError, match="elements differ"):  # the control: an earlier one does
        assert_bits_equal(forward(other, 2, tier)[0], full)


def test_threads_and_company_do_not_matter() -> None:
    qkv = random(70, 16, heads=4, b=5)
    results = []
    for threads in (1, 2, 3):
        runtime.set_threads(threads)
        results.append(forward(qkv, 4, "int8x3")[0])
        assert_bits_equal(results[-1], results[0], f"{threads} threads")
    assert_bits_equal(forward(qkv[3:4].contiguous(), 4, "int8x3")[0][0], results[0][3], "sequence 3 alone")
