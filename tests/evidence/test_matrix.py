"""pytest tests/evidence/test_matrix.py

A slice of tests.evidence.matrix: whole training runs without torch, natively under other compilers, levels,
instruction sets and threads and under qemu for two other architectures, print the lines of the trainer; a build that
may contract a*b+c does not.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from tests.evidence.matrix import Run

X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86-64")


def cpu_has(*names: str) -> bool:
    words = Path("/proc/cpuinfo").read_text().split()
    return all(name in words for name in names)


@pytest.fixture(scope="module")
def program(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("matrix"), tiny["tokens"])


@X86
@pytest.mark.parametrize(
    ("compiler", "level", "isa", "needs"),
    [
        ("g++", "0", "baseline", ()),
        ("clang++-14", "3", "v3", ("avx2", "fma")),
        ("g++", "2", "v4", ("avx512f", "avx512vl")),
    ],
)
def test_native(program: Run, compiler: str, level: str, isa: str, needs: tuple[str, ...]) -> None:
    if not shutil.which(compiler) or not cpu_has(*needs):
        pytest.skip(f"needs {compiler} and a CPU with {needs}")
    assert len(program.expected) == 4
    for lines in program.native(compiler, level, isa, threads=(1, 7)):
        assert lines == program.expected


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_foreign(program: Run, machine: str) -> None:
    if not (shutil.which(f"{machine}-linux-gnu-g++") and shutil.which(f"qemu-{machine}")):
        pytest.skip(f"needs g++-{machine}-linux-gnu and qemu-user")
    assert program.foreign(machine, "2", threads=(3,)) == [program.expected]


@X86
@pytest.mark.skipif(not cpu_has("avx2", "fma"), reason="the control needs a CPU with FMA")
def test_control_contraction_is_seen(program: Run) -> None:
    assert program.contracted() != program.expected
