"""pytest tests/ops/test_digits_cuda.py

The kernels in digits, kernels/*digits*.cu, run on the CPU (tests/cuda_on_cpu) against the CPU backend bit for bit: all tiles of the
product, heads of every kind of size, odd and unaligned sizes, hostile values, three orders of threads; and sabotage that must be seen.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import ops
from tests.bits import assert_bits_equal, hostile
from tests.cuda_on_cpu.build import build_shim
from tests.cuda_on_cpu.direct import DIGIT_TILES, LAYOUTS, Direct, sabotaged
from tests.digits import TIERS
from tests.ops.test_attention_digits import random
from tests.ops.test_matmul import operands

SCHEDULES = ("forward", "reverse", "random:3")
pytestmark = pytest.mark.usefixtures("every_unit")


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Direct:
    folder = tmp_path_factory.mktemp("digits")
    build_shim(folder, only="*digits*", torch=False)
    return Direct(folder)


def multiply(cuda: Direct, tile: str, tier: str, layout: str, m: int, n: int, k: int, accumulate: bool) -> None:
    """With a bias and, along tokens, sequences of 150; and, where an operand can be kept, the same of what is kept."""
    a, b = operands(layout, m, n, k, seed=m + n)
    expected, bias, sequence = hostile(m, n, seed=3), hostile(n, seed=4), 150 if layout == "tn" else 0
    out = expected.clone() if accumulate else torch.full((m, n), torch.nan)
    ops.matmul_digits(expected, a, b, bias, layout, accumulate, tier, sequence)
    cuda.matmul_digits(out, a, b, None, bias, layout, accumulate, tier, sequence, tile)
    what = f"{tile} {tier} {layout} {m}x{n}x{k}"
    assert_bits_equal(out, expected, what)
    if layout != "tn" and not accumulate:
        kept = torch.full((ops.digits_bytes(n, k, tier),), 99, dtype=torch.uint8)
        cuda.call("digits", kept, b, n, k, layout == "nn", TIERS[tier])
        cuda.matmul_digits(out.zero_(), a, b, kept, bias, "nt", False, tier, 0, tile)
        assert_bits_equal(out, expected, f"{what}, kept")


# Sizes around the tiles' own and around blocks of 128, several blocks of tiles, rows that are not 16-byte aligned.
@pytest.mark.parametrize("tile", DIGIT_TILES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (5, 7, 0), (65, 130, 260), (130, 68, 129), (17, 35, 400), (128, 128, 128)]
)
def test_products_have_the_bits_of_the_cpu(cuda: Direct, tile: str, layout: str, m: int, n: int, k: int) -> None:
    for i, schedule in enumerate(SCHEDULES):
        cuda.schedule(schedule)
        multiply(cuda, tile, ("int8x3", "int8x1", "int8x3")[i], layout, m, n, k, accumulate=i == 2)


@given(
    st.sampled_from(DIGIT_TILES), st.sampled_from(list(TIERS)), st.sampled_from(LAYOUTS), st.integers(1, 200),
    st.integers(1, 200), st.integers(1, 700), st.booleans(),
)  # fmt: skip
def test_any_size(cuda: Direct, tile: str, tier: str, layout: str, m: int, n: int, k: int, accumulate: bool) -> None:
    cuda.schedule("random:7")
    multiply(cuda, tile, tier, layout, m, n, k, accumulate)


def test_operands_that_begin_between_16_byte_lines(cuda: Direct) -> None:
    m, n, k = 20, 24, 256
    for layout in LAYOUTS:
        a, b = operands(layout, m, n, k)
        a = torch.cat([torch.zeros(1), a.view(-1)])[1:].view(a.shape)
        b = torch.cat([torch.zeros(3), b.view(-1)])[3:].view(b.shape)
        out, expected = torch.zeros(m * n + 1)[1:].view(m, n), torch.empty(m, n)
        ops.matmul_digits(expected, a, b, None, layout, False, "int8x3", 0)
        cuda.matmul_digits(out, a, b, None, None, layout, False, "int8x3", 0, "small")
        assert_bits_equal(out, expected, layout)


@pytest.mark.parametrize("tile", DIGIT_TILES)
def test_sums_are_exact_at_their_largest(cuda: Direct, tile: str) -> None:
    x = torch.full((17, 424), 127.9999)
    for tier in TIERS:
        for sign in (1, -1):
            expected, out = torch.empty(17, 17), torch.empty(17, 17)
            ops.matmul_digits(expected, x, sign * x, None, "nt", False, tier, 0)
            cuda.matmul_digits(out, x, sign * x, None, None, "nt", False, tier, 0, tile)
            assert_bits_equal(out, expected, f"{tier} {sign}")


@pytest.mark.parametrize("tile", DIGIT_TILES)
def test_every_digit_is_multiplied_as_what_it_is(cuda: Direct, tile: str) -> None:
    """One digit a row, at each of four places of a word, beside a 127 that is multiplied by 0; from either side."""
    digits = torch.arange(-127.0, 128.0)
    for tier, x in (("int8x1", digits), ("int8x3", 64 + digits / 256)):
        for place in range(1, 5):
            a, b = torch.zeros(255, 8), torch.zeros(1, 8)
            a[:, 0], a[:, place], b[:, place] = 127.0, x, 1.0
            for left, right in ((a, b), (b, a)):
                out = torch.empty(len(left), len(right))
                cuda.matmul_digits(out, left, right, None, None, "nt", False, tier, 0, tile)
                assert_bits_equal(out.view(-1), x, f"{tier}, place {place}")


@pytest.mark.parametrize(
    ("capability", "large", "small"),
    [
        ("8.0", "large", "small"),
        ("9.0", "wgmma", "narrow wgmma"),
        ("10.0", "large", "small"),
        ("10.3", "large bf16", "small bf16"),
        ("12.0", "large", "small"),
    ],
)
def test_the_tile_is_of_the_device(
    cuda: Direct, monkeypatch: pytest.MonkeyPatch, capability: str, large: str, small: str
) -> None:
    major, minor = capability.split(".")
    monkeypatch.setenv("SAMEBITS_SHIM_MAJOR", major)
    monkeypatch.setenv("SAMEBITS_SHIM_MINOR", minor)
    for digits in (1, 2):
        assert cuda.digit_tile_for(8448, 768, digits) == ("wide wgmma" if digits == 1 and major == "9" else large)
        assert cuda.digit_tile_for(768, 768, digits) == small


@pytest.mark.parametrize(
    ("m", "n", "digits", "tile"),
    [
        (8192, 2304, 2, "wgmma"), (2304, 768, 2, "wgmma"), (3072, 768, 2, "narrow wgmma"), (4096, 768, 2, "narrow wgmma"),
        (8192, 2304, 1, "wide wgmma"), (2304, 768, 1, "wgmma"), (3072, 768, 1, "wide wgmma"), (1, 768, 1, "narrow wgmma"),
    ],
)  # fmt: skip
def test_the_tile_of_wgmma_is_the_one_whose_waves_take_the_least(
    cuda: Direct, m: int, n: int, digits: int, tile: str
) -> None:
    """As measured on an H100: docs/kernels.md."""
    assert cuda.digit_tile_for(m, n, digits) == tile


def attend(cuda: Direct, qkv: torch.Tensor, heads: int, tier: str) -> torch.Tensor:
    """Both passes on either side; returns the output."""
    b, t, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    dout, digits = random(t, c, b=b)[:, :, :c].contiguous(), TIERS[tier]
    results = []
    for on_cpu in (True, False):
        out, dqkv = torch.full((b, t, c), torch.nan), torch.full((b, t, 3 * c), torch.nan)
        row_max, row_sum = torch.full((b, heads, t), torch.nan), torch.full((b, heads, t), torch.nan)
        if on_cpu:
            ops.attention_digits_forward(out, row_max, row_sum, qkv, heads, tier)
            ops.attention_digits_backward(dqkv, dout, out, qkv, row_max, row_sum, heads, tier)
        else:
            sizes = (b, t, c, heads, digits)
            cuda.call("attention_digits_forward", out, row_max, row_sum, qkv, *sizes)
            cuda.call("attention_digits_backward", dqkv, dout, out, qkv, row_max, row_sum, *sizes)
        parts = dict(zip(("dq", "dk", "dv"), dqkv.split(c, 2), strict=True))
        results.append({"out": out, "row_max": row_max + 0.0, "row_sum": row_sum} | parts)
    for name, expected in results[0].items():
        assert_bits_equal(results[1][name], expected, f"{name} of {tuple(qkv.shape)} in {heads}, {tier}")
    return results[0]["out"]


# Heads whose fragments stay in registers and others, of one block of features and of two, in one piece of 64 and in several.
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("t", "size", "heads", "b"), [(1, 1, 1, 1), (19, 32, 2, 2), (130, 36, 2, 1), (65, 80, 1, 2), (20, 133, 2, 1), (270, 8, 1, 1)]
)  # fmt: skip
def test_attention_has_the_bits_of_the_cpu(cuda: Direct, tier: str, t: int, size: int, heads: int, b: int) -> None:
    cuda.schedule(SCHEDULES[(t + size) % 3])
    attend(cuda, random(t, size, heads, b), heads, tier)


def test_hostile_values(cuda: Direct) -> None:
    """Zeros of both signs, subnormals, repeats; values whose products vanish or are huge."""
    cuda.schedule("reverse")
    for scale in (1e-20, 1.0, 1e-4):
        qkv = hostile(1, 140, 3 * 24, seed=24) * scale
        for tier in TIERS:
            attend(cuda, qkv.clamp(-1e4, 1e4), 1, tier)


@pytest.mark.parametrize("tier", TIERS)
def test_decoding_gives_the_bits_of_the_full_forward(cuda: Direct, tier: str) -> None:
    b, t, heads, size = 2, 150, 2, 40
    cuda.schedule("random:9")
    qkv = random(t, size, heads, b)
    full = attend(cuda, qkv, heads, tier)
    keys, values = (torch.full((b, heads, t + 5, size), torch.nan) for _ in range(2))
    for first, last in ((0, 37), (37, 75), (75, 80), (80, 81), (81, 149), (149, 150)):
        out, piece = torch.empty(b, last - first, heads * size), qkv[:, first:last].contiguous()
        sizes = (b, last - first, heads * size, heads, first, t + 5, TIERS[tier])
        cuda.call("attention_digits_cached", out, keys, values, piece, *sizes)
        assert_bits_equal(out, full[:, first:last], f"positions {first} to {last}")


def test_later_tokens_change_no_earlier_bit(cuda: Direct) -> None:
    """Nor do a NaN and an infinity among them: they are not seen, rather than multiplied by zero."""
    cuda.schedule("forward")
    qkv = random(150, 24, heads=2)
    full = attend(cuda, qkv, 2, "int8x3")
    for value in (1e30, torch.inf, torch.nan):
        other, out, kept = qkv.clone(), torch.empty_like(full), torch.empty(1, 2, 150)
        other[:, 64:] = value
        cuda.call("attention_digits_forward", out, kept, kept.clone(), other, 1, 150, 48, 2, 2)
        assert_bits_equal(out[:, :64], full[:, :64], f"{value}")


GIVEN_BACK = "      if (lane == 0) barrier_arrive(empty + turn.stage);\n"

# file, text, other text, stem; and a text that is left out, where one is moved
SABOTAGE = {
    "product: no barrier": ("matmul_digits.cu", "      __syncthreads();  // all", "      // all", "matmul_digits"),
    "product: no wait": ("matmul_digits.cu", "copy_async_wait<kAhead - 1>();", "", "matmul_digits"),
    "product: values of the wrong step": ("matmul_digits.cu", "Unit::kK * kGroupRows", "Unit::kK", "matmul_digits"),
    "product: second digits twice": ("matmul_digits.cu", "a[1], b[j][0]", "a[1], b[j][1]", "matmul_digits"),
    "bf16: a digit widened wrongly": ("mma.h", "8388736.0f", "8388735.0f", "matmul_digits"),
    "bf16: a and b in two orders of k": ("mma.h", "&a[i], &a[i + 2]", "&a[i + 2], &a[i]", "matmul_digits"),
    "wgmma: no wait for the operands": ("matmul_digits_wgmma.h", "barrier_wait(full + turn.stage, turn.phase);", "", "matmul_digits"),
    "wgmma: no wait for an empty stage": ("matmul_digits_wgmma.h", "barrier_wait(empty + turn.stage, turn.phase ^ 1);", "", "matmul_digits"),
    "wgmma: no wait for the product": ("matmul_digits_wgmma.h", "      multiply_wait(mixed);\n", "", "matmul_digits"),
    "wgmma: given back before the product": (
        "matmul_digits_wgmma.h", "      multiply_wait(hh);\n", f"{GIVEN_BACK}      multiply_wait(hh);\n", "matmul_digits", GIVEN_BACK,
    ),
    "wgmma: given back before the scales": (
        "matmul_digits_wgmma.h", "      const float* const scales_a", f"{GIVEN_BACK}      const float* const scales_a",
        "matmul_digits", GIVEN_BACK,
    ),
    "wgmma: chunks of the wrong step": ("matmul_digits_wgmma.h", "kStep = 2 * kUnitRowBytes", "kStep = kUnitRowBytes", "matmul_digits"),
    "wgmma: 16 bytes that never come": ("matmul_digits_wgmma.h", "barrier_expect(here, ", "barrier_expect(here, 16 + ", "matmul_digits"),
    "wgmma: second digits twice": (
        "matmul_digits_wgmma.h", "k * kStep, b + k * kStep, true", "k * kStep, b + kN * kDigitBlock + k * kStep, true", "matmul_digits",
    ),
    "attention: a key too many": ("attention_digits.cu", "key + c <= position[r]", "key + c <= position[r] + 1", "attention_digits"),
    "attention: a scale that does not see the first row": (
        "attention_digits.h", "larger(largest[r], __shfl_xor_sync(~0u, largest[r], 1))", "largest[r]", "attention_digits",
    ),
    "gradients: queries of another block": (
        "attention_digits_backward.cu", "int block = own / kBlockPanels;", "int block = own / kBlockPanels + 1;",
        "attention_digits*",
    ),
}  # fmt: skip

# Where a stage is filled again before its copies have come, or never is.
STOPPED = {
    "wgmma: no wait for the operands": "thread .256,0,0.: stopped at matmul_digits_wgmma.h",
    "wgmma: no wait for an empty stage": "thread .256,0,0.: stopped at matmul_digits_wgmma.h",
    "wgmma: 16 bytes that never come": "waits at matmul_digits_wgmma.h:.* for a barrier .* can never go on",
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_of_digits_is_seen(tmp_path: Path, what: str) -> None:
    broken = sabotaged(tmp_path, *SABOTAGE[what])
    kind = what.split(":")[0]
    tile = {"product": "small", "bf16": "small bf16", "wgmma": "narrow wgmma"}.get(kind)

    def compare() -> None:
        for schedule in SCHEDULES:
            broken.schedule(schedule)
            if tile:
                multiply(broken, tile, "int8x3", "tn", 70, 66, 700, accumulate=False)
            elif kind == "gradients":
                attend(broken, random(140, 8), 1, "int8x3")
            else:
                qkv, out, kept = random(140, 8), torch.empty(1, 140, 8), torch.empty(1, 1, 140)
                expected = torch.empty_like(out)
                ops.attention_digits_forward(expected, kept, kept.clone(), qkv, 1, "int8x3")
                broken.call("attention_digits_forward", out, kept, kept.clone(), qkv, 1, 140, 8, 1, 2)
                assert_bits_equal(out, expected, "out")

    error = RuntimeError if what in STOPPED else AssertionError
    with pytest.raises(error, match=STOPPED.get(what, "elements differ, first at")):
        compare()
