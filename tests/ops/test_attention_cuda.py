"""pytest tests/ops/test_attention_cuda.py

kernels/attention.cu and attention_backward.cu run on the CPU (tests/cuda_on_cpu) against the CPU backend bit for bit: every tile shape,
odd head sizes and lengths, hostile scores, decoding from any position, three orders of threads; and sabotage that must be seen.
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
from tests.cuda_on_cpu.direct import Direct, sabotaged

KERNELS = "attention attention_backward"
SCHEDULES = ("forward", "reverse", "random:3")


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Direct:
    folder = tmp_path_factory.mktemp("attention")
    build_shim(folder, only=KERNELS, torch=False)
    return Direct(folder)


def compare(cuda: Direct, qkv: torch.Tensor, heads: int, what: str) -> torch.Tensor:
    """Forward and backward on both; returns the output."""
    b, t, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    dout = torch.randn(b, t, c, generator=torch.Generator().manual_seed(t))
    results = []
    for backend in ("cpu", "cuda"):
        out, dqkv = torch.full((b, t, c), torch.nan), torch.full((b, t, 3 * c), torch.nan)
        row_max, row_sum = torch.empty(b, heads, t), torch.empty(b, heads, t)
        if backend == "cpu":
            ops.attention_forward(out, row_max, row_sum, qkv, heads)
            ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, heads)
        else:
            cuda.call("attention_forward", out, row_max, row_sum, qkv, b, t, c, heads)
            cuda.call("attention_backward", dqkv, dout, out, qkv, row_max, row_sum, b, t, c, heads)
        # The sign of a zero maximum is free: docs/numerics.md.
        results.append(
            {"row_max": row_max + 0.0, "row_sum": row_sum, "out": out}
            | dict(zip(("dq", "dk", "dv"), dqkv.split(c, 2), strict=True))
        )
    for name, expected in results[0].items():
        assert_bits_equal(results[1][name], expected, f"{name}, {what}")
    return results[0]["out"]


# One size per tile shape and sizes that fill none; lengths around a tile and over several.
@pytest.mark.parametrize("size", [1, 3, 8, 20, 32, 33, 64, 80, 128, 130, 256])
@pytest.mark.parametrize(("b", "heads", "t"), [(1, 1, 1), (2, 2, 19), (1, 1, 65), (1, 2, 130)])
def test_bits_of_the_cpu(cuda: Direct, size: int, b: int, heads: int, t: int) -> None:
    cuda.schedule(SCHEDULES[(size + t) % 3])
    qkv = torch.randn(b, t, 3 * heads * size, generator=torch.Generator().manual_seed(size + t))
    compare(cuda, qkv, heads, f"{b}x{t}x{heads}x{size}")


@given(st.integers(1, 140), st.integers(1, 70), st.integers(1, 3))
def test_any_size(cuda: Direct, t: int, size: int, heads: int) -> None:
    cuda.schedule("random:5")
    qkv = torch.randn(1, t, 3 * heads * size, generator=torch.Generator().manual_seed(t * size))
    compare(cuda, qkv, heads, f"1x{t}x{heads}x{size}")


@pytest.mark.parametrize("size", [33, 40, 64])
def test_small_tiles(cuda: Direct, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Cards with little shared memory, which take other tiles for heads of 64."""
    monkeypatch.setenv("SAMEBITS_SHIM_SHARED", str(100 * 1024))
    for schedule, t in zip(SCHEDULES, (1, 65, 130), strict=True):
        cuda.schedule(schedule)
        qkv = torch.randn(2, t, 3 * 2 * size, generator=torch.Generator().manual_seed(size + t))
        compare(cuda, qkv, 2, f"small tiles {t}x{size}")


@pytest.mark.parametrize("size", [8, 33, 64])
def test_hostile_values(cuda: Direct, size: int) -> None:
    """Zeros of both signs, subnormals, repeats; values whose products vanish or are huge, in queries, keys and values."""
    cuda.schedule("reverse")
    for scale in (1e-20, 1.0, 1e-4):
        qkv = hostile(1, 70, 3 * size, seed=size) * scale
        compare(cuda, qkv.clamp(-1e4, 1e4), 1, f"hostile {scale} {size}")


@pytest.mark.parametrize("size", [8, 33, 64, 128])
def test_decoding_gives_the_bits_of_the_full_forward(cuda: Direct, size: int) -> None:
    """Prefill (the tiled kernel, also from a position that no tile begins at) and single tokens (the other one)."""
    b, t, heads = 2, 100, 2
    c = heads * size
    cuda.schedule("random:9")
    qkv = torch.randn(b, t, 3 * c, generator=torch.Generator().manual_seed(size))
    full = compare(cuda, qkv, heads, "full")
    keys, values = (torch.full((b, heads, t + 5, size), torch.nan) for _ in range(2))
    for first, last in ((0, 37), (37, 75), (75, 80), (80, 81), (81, 99), (99, 100)):
        out = torch.empty(b, last - first, c)
        piece = qkv[:, first:last].contiguous()
        cuda.call("attention_cached", out, keys, values, piece, b, last - first, c, heads, first, t + 5)
        assert_bits_equal(out, full[:, first:last], f"positions {first} to {last}")


@pytest.mark.parametrize(("size", "position"), [(8, 1030), (40, 1023), (33, 127), (66, 2100)])
def test_decoding_after_many_keys(cuda: Direct, size: int, position: int) -> None:
    """Several tiles of keys and of weights; rows that are and are not 16-byte aligned; one new token and three."""
    heads, capacity = 2, position + 3
    generator = torch.Generator().manual_seed(position)
    for schedule, t in zip(SCHEDULES, (1, 3, 1), strict=True):
        cuda.schedule(schedule)
        qkv = torch.randn(2, t, 3 * heads * size, generator=generator)
        keys, values = (torch.randn(2, heads, capacity, size, generator=generator) for _ in range(2))
        results = []
        for backend in ("cpu", "cuda"):
            out, own = torch.full((2, t, heads * size), torch.nan), (keys.clone(), values.clone())
            if backend == "cpu":
                ops.attention_cached(out, *own, qkv, heads, position)
            else:
                cuda.call("attention_cached", out, *own, qkv, 2, t, heads * size, heads, position, capacity)
            results.append((out, *own))
        for expected, got, name in zip(*results, ("out", "keys", "values"), strict=True):
            assert_bits_equal(got, expected, f"{name} of {t} tokens, {schedule}")


def test_a_key_that_is_not_seen_has_no_part(cuda: Direct) -> None:
    """Infinite keys and values after a query change nothing before them: they are skipped, not multiplied by zero."""
    cuda.schedule("forward")
    qkv = torch.randn(1, 70, 3 * 64, generator=torch.Generator().manual_seed(1))
    out, row_max, row_sum = torch.empty(1, 70, 64), torch.empty(1, 1, 70), torch.empty(1, 1, 70)
    later = qkv.clone()
    later[0, 50:, 64:] = torch.inf
    changed = torch.empty_like(out)
    for x, target in ((qkv, out), (later, changed)):
        cuda.call("attention_forward", target, row_max, row_sum, x, 1, 70, 64, 1)
    assert_bits_equal(changed[:, :50], out[:, :50], "queries before the infinite keys")


def test_heads_in_groups(tmp_path: Path) -> None:
    """Room for the scores' gradients of one head of three, and of two of four: the same bits."""
    for i, (heads, shift) in enumerate(((3, 10), (4, 18))):
        grouped = sabotaged(
            tmp_path / str(i), "attention_backward.cu", "int64_t(256) << 20", f"int64_t(1) << {shift}", only=KERNELS
        )
        grouped.schedule("random:6")
        compare(
            grouped, torch.randn(1, 130, 3 * 64 * heads, generator=torch.Generator().manual_seed(3)), heads, "groups"
        )


SABOTAGE = {
    "no barrier": (
        "attention.cu",
        "__syncthreads();\n    products<S>(s, own_row, key_row, size);",
        "products<S>(s, own_row, key_row, size);",
    ),
    "no wait": ("attention.cu", "copy_async_wait<1>();  // values", ""),
    "no syncwarp": ("attention_tile.h", "  __syncwarp();\n}", "}"),
    "keys backwards": (
        "attention_tile.h",
        "for (int k = 0; k < 4; k++) {\n      Quad y",
        "for (int k = 3; k >= 0; k--) {\n      Quad y",
    ),
    "future seen": ("attention_tile.h", "if (kMasked && !", "if (kMasked && false && !"),
    "keys overwritten": (
        "attention_backward.cu",
        "    __syncthreads();\n  }\n#pragma unroll\n  for (int r = 0; r < S::kRows; r++) {\n#pragma unroll\n    for (int n = 0; "
        "n < 4 * S::kParts; n++) dq[r][n] = mul(",
        "  }\n#pragma unroll\n  for (int r = 0; r < S::kRows; r++) {\n#pragma unroll\n    for (int n = 0; "
        "n < 4 * S::kParts; n++) dq[r][n] = mul(",
    ),
    "scores' gradients elsewhere": (
        "attention_backward.cu",
        "(int64_t)i * (i + 1) / 2 + j)",
        "(int64_t)i * (i + 1) / 2)",
    ),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_seen(tmp_path: Path, what: str) -> None:
    broken = sabotaged(tmp_path, *SABOTAGE[what], only=KERNELS)
    qkv = torch.randn(1, 150, 3 * 64, generator=torch.Generator().manual_seed(2))

    def compare_all() -> None:
        for schedule in SCHEDULES:
            broken.schedule(schedule)
            compare(broken, qkv, 1, schedule)

    with pytest.raises(AssertionError, match="elements differ, first at"):
        compare_all()
