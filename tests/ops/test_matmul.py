"""pytest tests/ops/test_matmul.py

Matrix products against an exact scalar chain, against float64, and against themselves cut up.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import ops, runtime
from tests.bits import assert_bits_equal, chain, hostile

LAYOUTS = ("nt", "nn", "tn")
sizes = st.sampled_from([1, 2, 3, 7, 8, 9, 16, 31, 33, 65])


def operands(layout: str, m: int, n: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    a = hostile(k, m, seed=seed) if layout == "tn" else hostile(m, k, seed=seed)
    b = hostile(n, k, seed=seed + 1) if layout == "nt" else hostile(k, n, seed=seed + 1)
    return a, b


def plain(layout: str, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A [M, K] and B [K, N] of a layout."""
    return (a.t() if layout == "tn" else a), (b.t() if layout == "nt" else b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 5, 9), (9, 33, 4), (2, 7, 401)])
def test_each_output_is_one_exact_chain(layout: str, m: int, n: int, k: int) -> None:
    a, b = operands(layout, m, n, k)
    bias, out = hostile(n, seed=5), torch.empty(m, n)
    ops.matmul(out, a, b, bias, layout=layout)
    rows, columns = plain(layout, a, b)
    for i in range(m):
        for j in range(n):
            expected = chain(rows[i].tolist(), columns[:, j].tolist()) + bias[j].numpy()
            assert out[i, j].numpy().tobytes() == expected.tobytes(), (i, j, out[i, j].item(), expected)


@given(sizes, sizes, sizes, st.sampled_from(LAYOUTS))
def test_splitting_k_continues_the_chain(m: int, n: int, k: int, layout: str) -> None:
    a, b = operands(layout, m, n, k)
    whole = torch.empty(m, n)
    ops.matmul(whole, a, b, layout=layout)
    parts, at = torch.zeros(m, n), k // 3
    for first, last in ((0, at), (at, k)):
        pa = a[first:last] if layout == "tn" else a[:, first:last]
        pb = b[:, first:last] if layout == "nt" else b[first:last]
        ops.matmul(parts, pa.contiguous(), pb.contiguous(), layout=layout, accumulate=True)
    # A chain that starts from +0 in a buffer is the chain that starts from +0.
    assert_bits_equal(parts, whole, "parts")


@given(sizes, sizes, st.integers(1, 900), st.sampled_from(LAYOUTS), st.integers(1, 3))
def test_close_to_float64_on_any_threads(m: int, n: int, k: int, layout: str, threads: int) -> None:
    a, b = (
        torch.randn(k, m) if layout == "tn" else torch.randn(m, k),
        torch.randn(n, k) if layout == "nt" else torch.randn(k, n),
    )
    out, again = torch.empty(m, n), torch.empty(m, n)
    runtime.set_threads(threads)
    ops.matmul(out, a, b, layout=layout)
    runtime.set_threads(2)
    ops.matmul(again, a, b, layout=layout)
    assert_bits_equal(out, again, f"{threads} threads")
    rows, columns = plain(layout, a.double(), b.double())
    bound = k * 2**-24 * (rows.abs() @ columns.abs()) + 1e-30
    assert ((out.double() - rows @ columns).abs() <= bound).all()


def test_one_row_is_the_row_of_many() -> None:
    a, b = torch.randn(37, 129), torch.randn(70, 129)
    many, one = torch.empty(37, 70), torch.empty(1, 70)
    ops.matmul(many, a, b)
    for i in (0, 17, 36):
        ops.matmul(one, a[i : i + 1].contiguous(), b)
        assert_bits_equal(one[0], many[i], f"row {i}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(301, 71, 901), (1040, 33, 257)])
def test_a_large_product_is_its_small_parts(layout: str, accumulate: bool, m: int, n: int, k: int) -> None:
    """A large A is walked in another way than a small one (cpu/matmul.cpp, kSmallA); the bits must not show it."""
    a, b = operands(layout, m, n, k)
    bias, start = hostile(n, seed=5), hostile(m, n, seed=6)
    whole = start.clone()
    ops.matmul(whole, a, b, bias, layout=layout, accumulate=accumulate)
    for first in range(0, m, 19):
        rows = slice(first, min(first + 19, m))
        part = start[rows].clone()
        ops.matmul(part, (a[:, rows] if layout == "tn" else a[rows]).contiguous(), b, bias, layout, accumulate)
        assert_bits_equal(part, whole[rows], f"rows {rows}")


def test_infinities_stay_where_they_are() -> None:
    """K is never padded with zeros, which would turn Inf * 0 into NaN in other outputs."""
    a, b = torch.ones(9, 5), torch.ones(33, 5)
    a[3, 2] = torch.inf
    out = torch.empty(9, 33)
    ops.matmul(out, a, b)
    assert torch.isinf(out[3]).all()
    assert torch.isfinite(out[[0, 1, 2, 4, 5, 6, 7, 8]]).all()


def test_a_wrong_order_is_seen() -> None:
    """The control: the same products summed backwards must not pass for the same bits."""
    a, b = torch.randn(8, 200), torch.randn(32, 200)
    forward, backward = torch.empty(8, 32), torch.empty(8, 32)
    ops.matmul(forward, a, b)
    ops.matmul(backward, a.flip(1).contiguous(), b.flip(1).contiguous())
    with pytest.raises(AssertionError, match="elements differ, first at"):
        assert_bits_equal(backward, forward, "backward")
