"""pytest tests/ops/test_backends.py

Every op through its CUDA source against the CPU backend, bit for bit, on the cases of cases.py: on the CPU by fibers, with
threads in three orders, and natively where there is a GPU. Then sabotage of the sources, each seen to fail.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cuda_ops import build, ops, runtime
from tests.bits import assert_bits_equal, hostile
from tests.conftest import ROOT, run
from tests.cuda_on_cpu.build import build_shim
from tests.cuda_on_cpu.direct import Direct, sabotaged
from tests.digits import operand_in


def results(out: Path, build: Path, *flags: str, schedule: str = "") -> dict[str, torch.Tensor]:
    env = {"SAMEBITS_BUILD": str(build), "SAMEBITS_SHIM_SCHEDULE": schedule}
    run("-m", "tests.ops.cases", str(out), *flags, env=env)
    return load_file(out)


def bits(x: torch.Tensor, name: str, on_a_cpu: bool) -> torch.Tensor:
    """What must be equal: any NaN equals any NaN, since payloads are no part of the arithmetic; an operand in digits lies in
    an order of its backend's own (20 rows of 150 values: tests/ops/cases.py)."""
    op, tier = name.split()[:2]
    if x.dtype == torch.uint8 and op in ("digits", "matmul_kept_digits"):
        digits, scales = operand_in(x, 20, 150, tier, on_a_cpu)
        used: list[Any] = [
            digits[:20, 0].reshape(-1),
            digits[:20, 1, :, :22].reshape(-1),
            scales[:20].reshape(-1).view(np.int32),
        ]
        return torch.from_numpy(np.concatenate(used))
    return torch.where(x.isnan(), torch.nan, x).view(torch.int32) if x.dtype == torch.float32 else x


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal bits of the CUDA sources' results and of the CPU's."""
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        found, want = bits(actual[name], name, on_a_cpu=False), bits(x, name, on_a_cpu=True)
        assert found.shape == want.shape, name
        differ = (found != want).reshape(-1).nonzero().reshape(-1)
        assert not len(differ), f"{name}: {len(differ)} elements differ, first at {int(differ[0])}"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return results(tmp_path_factory.mktemp("cpu") / "cpu.safetensors", ROOT / "results" / "build")


def test_the_cases_reach_every_op(expected: dict[str, torch.Tensor]) -> None:
    from cuda_ops.ops._registry import writing_ops

    assert {name.split()[0] for name in expected} == set(writing_ops())


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random:5"])
def test_cuda_sources_on_the_cpu(tmp_path: Path, shim: Path, expected: dict[str, torch.Tensor], schedule: str) -> None:
    assert_same(results(tmp_path / "shim.safetensors", shim, schedule=schedule), expected)


def test_op_tests_on_cuda_sources(shim: Path) -> None:
    """The op tests themselves, against references and float64, with every op through its CUDA source."""
    files = [f"tests/ops/test_{stem}.py" for stem in build.stems()]
    output = run("-m", "pytest", *files, "-q", "--device", "shim", env={"SAMEBITS_SHIM_SCHEDULE": "random:2"})
    assert " passed" in output or "[100%]" in output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu(tmp_path: Path) -> None:
    build = ROOT / "results" / "build"
    runtime.require_cuda()
    cpu, gpu = (
        results(tmp_path / f"{device}.safetensors", build, "--device", device, "--large") for device in ("cpu", "cuda")
    )
    assert_same(gpu, cpu)


# ---------------------------------------------------------------- the controls


def layernorm_columns(direct: Direct) -> list[torch.Tensor]:
    x, dout = hostile(2, 70, 36, seed=1).clamp(-9, 9), hostile(2, 70, 36, seed=2).clamp(-9, 9)
    weight, mean, rstd = (
        torch.randn(36, generator=torch.Generator().manual_seed(3)),
        torch.zeros(2, 70),
        torch.ones(2, 70),
    )
    got = [[torch.zeros(2, 70, 36), torch.zeros(36), torch.zeros(36)] for _ in range(2)]
    ops.layernorm_backward(got[0][0], got[0][1], got[0][2], dout, None, x, weight, mean, rstd)
    direct.call("layernorm_backward", *got[1], dout, None, x, weight, mean, rstd, 2, 70, 36)
    return [*got[1], *got[0]]


def embedding(direct: Direct) -> list[torch.Tensor]:
    dout, tokens = hostile(4, 70, 33, seed=4), torch.randint(9, (4, 70), generator=torch.Generator().manual_seed(5))
    got = [[torch.zeros(9, 33), torch.zeros(70, 33)] for _ in range(2)]
    ops.embedding_backward(got[0][0], got[0][1], dout, tokens.int())
    direct.call("embedding_backward", *got[1], dout, tokens.int(), 4, 70, 33)
    return [*got[1], *got[0]]


def cross_entropy(direct: Direct) -> list[torch.Tensor]:
    targets = torch.tensor([3, 4095, 0], dtype=torch.int32)
    got = [[torch.zeros(3), hostile(3, 4100, seed=10).clamp(-50, 50)] for _ in range(2)]
    ops.cross_entropy_fused(got[0][0], got[0][1], targets, 0.1, 4099)
    direct.call("cross_entropy_fused", *got[1], targets, 0.1, 3, 4099, 4100)
    return [*got[1], *got[0]]


SYNC = "  __syncthreads();\n"
SABOTAGE = {
    "columns: no barrier": (layernorm_columns, "columns.h", SYNC + "\n  constexpr int kWarps", "  constexpr int kWarps"),
    "columns: tokens backwards": (
        layernorm_columns, "columns.h", "const int64_t token = b * T + t;",
        "const int64_t token = b * T + (T - 1 - threadIdx.y) / kPartials * kPartials + 2 * threadIdx.y - t;",
    ),
    "rows: fold by neighbours": (layernorm_columns, "rows.h", "width / kWidth)", "16 / width / kWidth + (width == 16))"),
    "embedding: 32 rows alone": (embedding, "embedding.cu", "count == 32;", "count == 33;"),
    "embedding: rows backwards": (embedding, "embedding.cu", "__shfl_sync(~0u, i, k)", "__shfl_sync(~0u, i, count - 1 - k)"),
    "cross-entropy: one buffer": (cross_entropy, "cross_entropy.cu", "tiles[step % 2]", "tiles[(step + 1) % 2]"),
}  # fmt: skip


def compare(check: Callable[[Direct], list[torch.Tensor]], direct: Direct) -> None:
    for schedule in ("forward", "reverse", "random:1"):
        direct.schedule(schedule)
        tensors = check(direct)
        half = len(tensors) // 2
        for i in range(half):
            assert_bits_equal(tensors[i], tensors[half + i], f"{check.__name__} {i} {schedule}")


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_seen(tmp_path: Path, what: str) -> None:
    check, source, old, new = SABOTAGE[what]
    kernels = {layernorm_columns: "layernorm", embedding: "embedding", cross_entropy: "cross_entropy"}
    with pytest.raises(AssertionError, match="elements differ, first at"):
        compare(check, sabotaged(tmp_path, source, old, new, only=kernels[check]))


def test_contraction_is_seen(tmp_path: Path) -> None:
    """The compiler may fuse a*b+c, as in dout weight - mean. Without the permission the same build agrees."""
    for name, flags in (("off", []), ("fast", ["-ffp-contract=fast", "-march=x86-64-v3"])):
        if flags and " fma " not in Path("/proc/cpuinfo").read_text():
            pytest.skip("this CPU has no FMA")
        build_shim(tmp_path / name, ROOT / "cuda_ops" / "kernels", *flags, only="layernorm", torch=False)
    compare(layernorm_columns, Direct(tmp_path / "off"))
    with pytest.raises(AssertionError, match="elements differ, first at"):
        compare(layernorm_columns, Direct(tmp_path / "fast"))
