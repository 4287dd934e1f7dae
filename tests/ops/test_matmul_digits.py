"""pytest tests/ops/test_matmul_digits.py

Products in digits against the plain definition, against themselves cut up, and on every instruction set.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cuda_ops import ops, runtime
from tests.bits import assert_bits_equal, hostile
from tests.conftest import run
from tests.digits import TIERS, product
from tests.ops.test_matmul import LAYOUTS, operands, plain


def multiply(
    a: torch.Tensor, b: torch.Tensor, tier: str, layout: str = "nt", sequence: int = 0, start: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    rows, columns = plain(layout, a, b)
    out = torch.full((rows.shape[0], columns.shape[1]), torch.nan) if start is None else start.clone()
    ops.matmul_digits(out, a, b, bias, layout, start is not None, tier, sequence)
    return out


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 5, 9), (9, 33, 130), (2, 7, 401)])
def test_each_output_is_the_definition_s(tier: str, layout: str, m: int, n: int, k: int) -> None:
    a, b = operands(layout, m, n, k)
    start, bias = hostile(m, n, seed=6), hostile(n, seed=5)
    rows, columns = plain(layout, a, b)
    expected = product(rows.numpy(), columns.t().numpy(), tier, start=start.numpy()) + bias.numpy()
    assert_bits_equal(multiply(a, b, tier, layout, start=start, bias=bias), torch.from_numpy(expected), layout)
    if layout != "tn":
        kept, out = torch.zeros(ops.digits_bytes(n, k, tier), dtype=torch.uint8), torch.empty(m, n)
        ops.digits(kept, b, layout == "nn", tier)
        ops.matmul_kept_digits(out, a, kept, bias, tier)
        assert_bits_equal(out, multiply(a, b, tier, layout, bias=bias), "kept")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("sequence", [1, 40, 130, 300])
def test_blocks_along_tokens_begin_anew_with_every_sequence(tier: str, sequence: int) -> None:
    """The definition's; any number of whole sequences at a time; pieces of a sequence that begin at block ends."""
    count = 3 if sequence > 1 else 20
    a, b = operands("tn", 5, 19, count * sequence, seed=3)
    whole = multiply(a, b, tier, "tn", sequence, start=torch.zeros(5, 19))
    expected = product(a.t().numpy(), b.t().numpy(), tier, sequence)
    assert_bits_equal(whole, torch.from_numpy(expected), "definition")
    for step in (sequence, 2 * sequence, *([128] if sequence > 128 else [])):
        out = torch.zeros(5, 19)
        for s in range(0, count * sequence, max(step, sequence)):
            for first in range(s, min(s + max(step, sequence), count * sequence), step):
                part = slice(first, min(first + step, s + max(step, sequence), count * sequence))
                out = multiply(a[part], b[part], tier, "tn", sequence, start=out)
        assert_bits_equal(out, whole, f"{step} at a time")
    if sequence in (40, 130):  # the control: blocks that run on
        assert not torch.equal(multiply(a, b, tier, "tn", 0, start=torch.zeros(5, 19)), whole)


@pytest.mark.parametrize("tier", TIERS)
def test_a_large_product_is_its_small_parts_on_any_threads(tier: str) -> None:
    for layout in LAYOUTS:
        a, b = operands(layout, 205, 71, 1300)
        bias, whole = hostile(71, seed=5), []
        for threads in (1, 2, 3):
            runtime.set_threads(threads)
            whole.append(multiply(a, b, tier, layout, bias=bias))
            assert_bits_equal(whole[-1], whole[0], f"{threads} threads")
        runtime.set_threads(2)
        for first in range(0, 205, 41):
            rows = slice(first, first + 41)
            part = (a[:, rows] if layout == "tn" else a[rows]).contiguous()
            assert_bits_equal(multiply(part, b, tier, layout, bias=bias), whole[0][rows], f"{layout} {rows}")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("sign", [1, -1])
def test_no_sum_overflows(tier: str, sign: int) -> None:
    """Every digit 127, or 127 against -127: the largest sums that there are; the definition has integers of any size."""
    k = 3 * 128 + 40
    x = torch.full((17, k), 127.9999)
    assert_bits_equal(
        multiply(x, sign * x, tier), torch.from_numpy(product(x.numpy(), sign * x.numpy(), tier)), f"{sign}"
    )
    exact = sign * k * 127.9999**2
    assert abs(multiply(x, sign * x, tier)[3, 5].item() / exact - 1) < (
        2e-2 if tier == "int8x1" else 1e-2
    )  # digits are held below 128


def test_what_is_not_finite_stays_where_it_is() -> None:
    a, b = torch.ones(9, 300), torch.ones(33, 300)
    a[3, 2], b[7, 250] = torch.inf, torch.nan
    out = multiply(a, b, "int8x3")
    bad = out.isnan()
    assert bad[3].all()
    assert bad[:, 7].all()
    assert bad.sum() == 33 + 9 - 1


@pytest.mark.parametrize(("tier", "bound"), [("int8x3", 3e-4), ("int8x1", 3e-2)])
def test_close_to_float64(tier: str, bound: float) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(64, 768, generator=generator), 0.02 * torch.randn(96, 768, generator=generator)
    exact = a.double() @ b.double().t()
    assert (multiply(a, b, tier).double() - exact).norm() / exact.norm() < bound


def fingerprints() -> None:
    """Prints one line per op in digits; the same on every instruction set."""
    runtime.set_threads(2)
    for tier in TIERS:
        for layout, sequence in (("nt", 0), ("nn", 0), ("tn", 70)):
            a, b = operands(layout, 37, 70, 280, seed=9)
            print(tier, layout, ops.fingerprint(multiply(a, b, tier, layout, sequence)))
        qkv, dout = hostile(2, 150, 3 * 40, seed=1).clamp(-4, 4), hostile(2, 150, 40, seed=2).clamp(-9, 9)
        out, row_max, row_sum, dqkv = (
            torch.empty_like(dout),
            torch.empty(2, 2, 150),
            torch.empty(2, 2, 150),
            qkv.clone(),
        )
        ops.attention_digits_forward(out, row_max, row_sum, qkv, 2, tier)
        ops.attention_digits_backward(dqkv, dout, out, qkv, row_max, row_sum, 2, tier)
        print(tier, "attention", ops.fingerprint(out), ops.fingerprint(dqkv))


def printed(**env: str) -> str:
    return run("-c", "from tests.ops.test_matmul_digits import fingerprints; fingerprints()", env=env)


def of_instruction_sets(**env: str) -> set[str]:
    """What fingerprints() prints with dot product instructions, with those that every x86 of a level has, in plain C."""
    variants = [{"SAMEBITS_ISA": "baseline"}]
    with open("/proc/cpuinfo", encoding="ascii") as file:
        features = file.read().split()
    variants += [{"SAMEBITS_ISA": "v3"}, {"SAMEBITS_ISA": "v3", "SAMEBITS_DOT": "plain"}] * ("avx2" in features)
    variants += [{"SAMEBITS_ISA": "v4"}, {"SAMEBITS_ISA": "v4", "SAMEBITS_DOT": "plain"}] * ("avx512bw" in features)
    return {printed(**env, **variant) for variant in variants}


@pytest.mark.host("instruction sets are a CPU's")
def test_instruction_sets_agree() -> None:
    if runtime.isa() == "cuda_on_cpu":
        pytest.skip("one table of kernels")
    found = of_instruction_sets()
    assert len(found) == 1, found
    assert len(next(iter(found)).splitlines()) == 8


def test_a_wrong_digit_is_seen() -> None:
    """The control: the smallest change of an operand that moves a digit."""
    a, b = torch.randn(8, 200), torch.randn(32, 200)
    wrong = a.clone()
    wrong[3, 150] += a[3, 128:].abs().max() * 2**-13
    with pytest.raises(AssertionError, match="of 256 elements differ, first at \\(3, "):
        assert_bits_equal(multiply(wrong, b, "int8x3"), multiply(a, b, "int8x3"))
    assert np.isfinite(multiply(a, b, "int8x1").numpy()).all()
