"""pytest tests/ops/test_digits_limits.py

What products and attention in digits could take in silence and get wrong: rows beyond 2^24, sizes beyond 32 bits, a tile that the device
has no unit for, an operand that lies in another order than the unit reads, a ring of stages that never goes round.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from cuda_ops import ops
from cuda_ops.errors import UserError
from pipeline.evidence import gpu_parts
from pipeline.recipe import Gpt, load_recipe
from tests.bits import hostile
from tests.conftest import ROOT
from tests.cuda_on_cpu.build import HERE, build_shim
from tests.cuda_on_cpu.direct import DIGIT_TILES, Direct, as_c, sabotaged
from tests.digits import TIERS

MOST = 2**30  # kMostInDigits of bindings/digits.h
pytestmark = pytest.mark.usefixtures("every_unit")


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Direct:
    folder = tmp_path_factory.mktemp("far_rows")
    build_shim(folder, HERE, opt_level=0, only="far_rows", torch=False)
    return Direct(folder)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_beyond_2_24_are_cut_and_multiplied_as_the_first(cuda: Direct, tier: str, transposed: bool) -> None:
    """Two blocks of K, the second short, and rows that are no whole group: bytes, scales, and outputs of either unit."""
    x = hostile(*((130, 37) if transposed else (37, 130)), seed=24)
    arguments = [as_c(value) for value in (x, 37, 130, transposed)]
    assert cuda.library.samebits_far_rows(*arguments, ctypes.c_int(TIERS[tier])) == 0


def test_a_grid_that_no_gpu_takes_is_refused(cuda: Direct) -> None:
    grid_of = cuda.library.samebits_grid_of
    grid_of.restype = ctypes.c_char_p
    assert grid_of(as_c((2**31 - 1) * 256), as_c(256)) == b""
    assert grid_of(as_c(2**40), as_c(256)) == b"a grid of 4294967296 blocks: allowed is up to 2147483647"


def huge(*sizes: int) -> torch.Tensor:
    """A tensor of one element, as often as is asked for."""
    return torch.zeros([1] * len(sizes)).expand(*sizes)


@pytest.mark.host("a tensor of another device would be that large")
@pytest.mark.parametrize("tier", TIERS)
def test_sizes_beyond_32_bits_are_refused(tier: str) -> None:
    one, many, out = torch.zeros(1, 1), huge(MOST + 1, 1), torch.zeros(1, dtype=torch.uint8)
    words = f"expected sizes of at most {MOST} in digits, got shape \\[{MOST + 1}, 1\\]"
    with pytest.raises(RuntimeError, match=f"x: {words}"):
        ops.digits(out, many, False, tier)
    for layout in ("nt", "nn", "tn"):
        for name, a, b in (("a", many, one), ("b", one, many)):
            with pytest.raises(RuntimeError, match=f"{name}: {words}"):
                ops.matmul_digits(one, a, b, None, layout, False, tier)
    with pytest.raises(RuntimeError, match=f"out: {words}"):
        ops.matmul_kept_digits(many, many, out, None, tier)

    def attend(qkv: torch.Tensor, heads: int, keys: torch.Tensor | None = None) -> None:
        if keys is None:
            ops.attention_digits_forward(one, one, one, qkv, heads, tier)
        else:
            ops.attention_digits_cached(one, keys, keys, qkv, heads, 0, tier)

    for sizes in ((MOST + 1, 1, 3), (1, MOST + 1, 3), (1, 1, 3 * MOST)):
        with pytest.raises(RuntimeError, match=f"qkv: expected sizes of at most {MOST}"):
            attend(huge(*sizes), 1)
        with pytest.raises(RuntimeError, match=f"qkv: expected sizes of at most {MOST}"):
            ops.attention_digits_backward(one, one, one, huge(*sizes), one, one, 1, tier)
    with pytest.raises(RuntimeError, match=f"heads: 2048 in each of 1048576 sequences, allowed in digits are {MOST} "):
        attend(huge(2**20, 1, 3 * 2048), 2048)
    with pytest.raises(RuntimeError, match=f"key_cache: expected sizes of at most {MOST}"):
        attend(torch.zeros(1, 1, 3), 1, huge(1, 1, MOST + 1, 1))
    with pytest.raises(RuntimeError, match="x: expected a contiguous tensor"):  # the control: another check speaks
        ops.digits(out, huge(MOST, 1), False, tier)


@pytest.mark.parametrize("tile", DIGIT_TILES)
@pytest.mark.parametrize("capability", ["8.0", "9.0", "10.0"])
def test_a_forced_tile_without_its_unit_is_refused(
    cuda: Direct, monkeypatch: pytest.MonkeyPatch, tile: str, capability: str
) -> None:
    major, minor = capability.split(".")
    monkeypatch.setenv("SAMEBITS_SHIM_MAJOR", major)
    monkeypatch.setenv("SAMEBITS_SHIM_MINOR", minor)
    a, out, expected = hostile(20, 30, seed=1), torch.empty(20, 20), torch.empty(20, 20)

    def multiply() -> None:
        cuda.matmul_digits(out, a, a, None, None, "nt", False, "int8x3", 0, tile)

    if "wgmma" in tile and major != "9":
        number, words = DIGIT_TILES.index(tile), "allowed are 0, 1, 5 and 6, and on 9.0 also 2, 3 and 4"
        with pytest.raises(RuntimeError, match=f"tile {number} on compute capability {capability}: {words}"):
            multiply()
    else:
        multiply()
        ops.matmul_digits(expected, a, a, None, "nt", False, "int8x3")
        assert torch.equal(out, expected)


def test_the_unit_reads_operands_as_they_are_cut(tmp_path: Path) -> None:
    """Where it would not, nothing is compiled."""
    with pytest.raises(UserError, match=r"the unit reads operands as digits\.h lays them"):
        sabotaged(tmp_path, "wgmma.h", "kUnitGroupBytes = 1024", "kUnitGroupBytes = 2048", only="matmul_digits")


def test_the_step_under_the_sanitizer_goes_round_the_stages(cuda: Direct, tmp_path: Path) -> None:
    """A gradient of a weight is a sum over blocks of each sequence of a micro-batch; each block is a stage."""
    path = tmp_path / "tiny.yaml"
    path.write_text(gpu_parts.in_digits((ROOT / "tests" / "recipes" / "tiny.yaml").read_text()))
    bits = load_recipe(path).bits
    assert bits.numerics == "int8x3"
    assert isinstance(bits.model, Gpt)
    sequences = min(gpu_parts.SANITIZED_MICRO_BATCH, bits.batch.sequences // bits.batch.lanes)
    blocks = sequences * -(-bits.model.context // 128)
    assert blocks > 2 * cuda.library.samebits_narrow_stages(TIERS[bits.numerics])
