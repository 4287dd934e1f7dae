"""pytest tests/ops/test_digits.py

Cutting into digits: an operand's bytes against the definition of docs/numerics.md, value by value.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cuda_ops import ops
from tests.bits import hostile
from tests.digits import BLOCK, TIERS, cut, exponent, largest, operand_in, scale


def made(x: torch.Tensor, transposed: bool, tier: str) -> torch.Tensor:
    rows, k = x.shape[::-1] if transposed else x.shape
    out = torch.full((ops.digits_bytes(rows, k, tier),), 99, dtype=torch.uint8)
    ops.digits(out, x, transposed, tier)
    return out


def check(x: torch.Tensor, tier: str) -> None:
    """Every digit and scale of the rows of x."""
    operand = made(x, False, tier)
    assert torch.equal(operand, made(x.t().contiguous(), True, tier)), "along columns"
    rows, k = x.shape
    on_a_cpu = bool(made(torch.zeros(1, 1), False, tier)[0] == 128)
    digits, scales = operand_in(operand, rows, k, tier, on_a_cpu)
    for row in range(rows):
        for b in range(-(-k // BLOCK)):
            values = x[row, b * BLOCK : (b + 1) * BLOCK].numpy()
            e = exponent(largest(values))
            found = digits[row, b, :, : len(values)]
            for got, expected in zip(found, cut(values, e, tier), strict=False):
                assert got.tolist() == expected.tolist(), (row, b)
            assert scales[row, b].tobytes() == scale(e, tier).tobytes(), (row, b)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (3, 5), (16, 128), (17, 131), (33, 260)])
def test_every_digit_is_the_definition_s(rows: int, k: int, tier: str) -> None:
    check(hostile(rows, k, seed=rows), tier)


@pytest.mark.parametrize("tier", TIERS)
def test_zero_subnormal_extreme_and_ties(tier: str) -> None:
    """Blocks of their own: zeros, subnormals, values near 2^128, ties of both digits, a power of two and its neighbours."""
    tie = torch.tensor([127.5, -127.5, 0.5, 1.5, 2.5, -0.5, 126.5, 0.5 + 2**-9, 1 - 2**-9, 127.998, -127.998])
    rows = [torch.zeros(11), torch.full((11,), 1e-42), torch.full((11,), 3.4e38), torch.tensor([-0.0] * 11), tie]
    rows += [tie * 2.0**-120, torch.tensor([1.0, np.nextafter(np.float32(1), np.float32(0)).item()] + [0.25] * 9)]
    check(torch.stack(rows), tier)
    hi, lo = (x.tolist() for x in cut(tie.numpy(), 7, "int8x3"))
    assert (hi[:7], lo[2:4]) == ([127, -127, 0, 2, 2, 0, 126], [127, -127]), "ties go to even, and digits are held"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_block_that_is_not_finite_has_no_digits_and_no_scale(bad: float) -> None:
    x = torch.ones(2, 200)
    x[1, 130] = bad
    check(x, "int8x3")


def test_wrong_arguments_are_named() -> None:
    x = torch.zeros(3, 5)
    with pytest.raises(RuntimeError, match="tier: expected int8x3 or int8x1, got int4"):
        ops.digits(torch.zeros(9, dtype=torch.uint8), x, False, "int4")
    with pytest.raises(RuntimeError, match="out: expected shape"):
        ops.digits(torch.zeros(9, dtype=torch.uint8), x, False, "int8x1")


@pytest.mark.host("a device gets copies of tensors, which begin at whole lines")
def test_an_operand_begins_at_a_whole_line() -> None:
    out = torch.zeros(ops.digits_bytes(3, 5, "int8x1") + 8, dtype=torch.uint8)[8:]
    with pytest.raises(RuntimeError, match="out: expected to begin at a multiple of 16 bytes"):
        ops.digits(out, torch.zeros(3, 5), False, "int8x1")
