"""pytest tests/ops/test_matmul_cuda.py

kernels/matmul.cu run on the CPU (tests/cuda_on_cpu), every tile of it, against the CPU backend bit for bit: three layouts, odd and
unaligned sizes, accumulation, bias, hostile values, three orders of threads; and sabotage that must be seen.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import predict
from cuda_ops import ops
from tests.bits import assert_bits_equal, hostile
from tests.cuda_on_cpu.build import build_shim
from tests.cuda_on_cpu.direct import LAYOUTS, TILES, Direct, sabotaged

SCHEDULES = ("forward", "reverse", "random:3")


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Direct:
    folder = tmp_path_factory.mktemp("matmul")
    build_shim(folder, only="matmul", torch=False)
    return Direct(folder)


def operands(layout: str, m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape_a, shape_b = (k, m) if layout == "tn" else (m, k), (n, k) if layout == "nt" else (k, n)
    return (hostile(*shape_a, seed=1), hostile(*shape_b, seed=2)) if k else (torch.empty(shape_a), torch.empty(shape_b))


def compare(cuda: Direct, tile: str | None, layout: str, m: int, n: int, k: int, accumulate: bool, bias: bool) -> None:
    a, b = operands(layout, m, n, k)
    expected, extra = hostile(m, n, seed=3), hostile(n, seed=4) if bias else None
    out = expected.clone() if accumulate else torch.full((m, n), torch.nan)
    ops.matmul(expected, a, b, extra, layout=layout, accumulate=accumulate)
    cuda.matmul(out, a, b, extra, layout, accumulate, tile)
    assert_bits_equal(out, expected, f"{tile} {layout} {m}x{n}x{k}")


# Sizes around the tiles' own, k below, at and beyond one tile of k and the pipeline; rows that are not 16-byte aligned.
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1, 1), (3, 5, 9), (130, 132, 40), (129, 67, 35), (65, 64, 0), (128, 128, 64), (12, 36, 130), (260, 4, 16)],
)
def test_bits_of_the_cpu(cuda: Direct, tile: str, layout: str, m: int, n: int, k: int) -> None:
    for i, schedule in enumerate(SCHEDULES):
        cuda.schedule(schedule)
        compare(cuda, tile, layout, m, n, k, accumulate=i > 0, bias=i < 2)


@given(
    st.sampled_from(TILES),
    st.sampled_from(LAYOUTS),
    st.integers(1, 140),
    st.integers(1, 140),
    st.integers(0, 70),
    st.booleans(),
)
def test_any_size(cuda: Direct, tile: str, layout: str, m: int, n: int, k: int, accumulate: bool) -> None:
    cuda.schedule("random:7")
    compare(cuda, tile, layout, m, n, k, accumulate, bias=not accumulate)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_infinities_stay_where_they_are_and_so_do_negative_zeros(cuda: Direct, tile: str, layout: str) -> None:
    """Neither K nor rows beyond the matrix are padded into a chain: Inf stays in its row, -0 stays -0."""
    a, b, out = torch.ones(9, 11), torch.full((33, 11), -0.0), torch.full((9, 33), -0.0)
    a[3, 10], b[:, 10] = torch.inf, 1.0
    a[4, :], b[5, :] = 1.0, -0.0
    a, b = a.t().contiguous() if layout == "tn" else a, b if layout == "nt" else b.t().contiguous()
    cuda.matmul(out, a, b, None, layout, True, tile)
    assert torch.isinf(out[3, :5]).all()
    assert torch.isfinite(out[[0, 1, 2, 4, 5, 6, 7, 8]]).all()
    assert torch.signbit(out[4, 5])
    assert out[4, 5] == 0


@pytest.mark.parametrize("tile", TILES)
def test_operands_that_begin_between_16_byte_lines(cuda: Direct, tile: str) -> None:
    """A view into a flat buffer may begin anywhere: the copies must not assume alignment."""
    m, n, k = 68, 72, 24
    for layout in LAYOUTS:
        a, b = operands(layout, m, n, k)
        a = torch.cat([torch.zeros(1), a.view(-1)])[1:].view(a.shape)
        b = torch.cat([torch.zeros(3), b.view(-1)])[3:].view(b.shape)
        out, expected = torch.zeros(m * n + 1)[1:].view(m, n), torch.empty(m, n)
        ops.matmul(expected, a, b, layout=layout)
        cuda.matmul(out, a, b, None, layout, False, tile)
        assert_bits_equal(out, expected, f"{tile} {layout}")


def test_the_tile_is_a_function_of_the_problem(cuda: Direct) -> None:
    """GPT-2 124M and 1558M, 8192 tokens: what was fastest on an H200 or within 2% of it, square tiles of tn left aside
    (docs/kernels.md)."""
    fastest = {
        "nt": {(8192, 2304): "square", (8192, 768): "square", (4096, 50304): "square", (8192, 1600): "wide"},
        "nn": {(8192, 768): "wide", (8192, 3072): "large", (4096, 768): "wide", (8192, 6400): "wide"},
        "tn": {(2304, 768): "wide", (3072, 768): "small", (768, 768): "small", (50304, 768): "large"},
    }
    for layout, sizes in fastest.items():
        for (m, n), tile in sizes.items():
            assert cuda.tile_for(m, n, layout) == tile, f"{layout} {m}x{n}"
    assert cuda.tile_for(1, 50304, "nt") == "few_rows"
    compare(cuda, None, "nt", 70, 30, 20, accumulate=False, bias=True)


def test_predictions_know_the_tile(cuda: Direct) -> None:
    """benchmarks/predict.py counts the tiles that run."""
    names = dict(zip(predict.TILES, TILES[:4], strict=True))
    sizes = (17, 64, 700, 768, 2304, 3072, 8192, 50304), (64, 768, 1600, 3072, 50304)
    for layout, m, n in itertools.product(LAYOUTS, *sizes):
        assert names[predict.tile_name(layout, m, n)] == cuda.tile_for(m, n, layout), f"{layout} {m}x{n}"


WAIT, BARRIER = "        copy_async_wait<kStages - 2>();\n", "        __syncthreads();\n"
SABOTAGE = {
    "no barrier": (WAIT + BARRIER, WAIT),
    "no wait": (WAIT + BARRIER, BARRIER),
    "k backwards": (" k * T::kStride", " (kK - 1 - k) * T::kStride"),
    "the last k lost": ("if (own_k < left) copy", "if (own_k + 1 < left) copy"),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_seen(tmp_path: Path, what: str) -> None:
    broken = sabotaged(tmp_path, "matmul.cu", *SABOTAGE[what], only="matmul")

    def compare_all() -> None:
        for tile in TILES[:4]:
            compare(broken, tile, "nt", 70, 66, 64, accumulate=False, bias=False)

    with pytest.raises(AssertionError, match="elements differ, first at"):
        compare_all()
