"""pytest tests/ops/test_portable.py

The kernels without torch, built for this machine and cross-compiled for aarch64 and riscv64, whose FMA is part of
their baseline; those run under qemu. The lines they print must be equal, and a build that may contract must be seen to differ.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from cuda_ops import flags
from tests.conftest import ROOT

SOURCES = [
    str(path)
    for path in sorted((ROOT / "cuda_ops" / "cpu").glob("*.cpp"))
    if path.stem != "dispatch" and "digits" not in path.stem  # those are test_digits_portable.py's
]


def results(folder: Path, compiler: str, *extra: str, runner: tuple[str, ...] = ()) -> list[str]:
    """Build portable.cpp with every kernel in fp32 and run it."""
    program = folder / "portable"
    keep = [flag for flag in flags.ARITHMETIC if flag.split("=")[0] not in {e.split("=")[0] for e in extra}]
    command = [compiler, *keep, "-O2", "-fopenmp", "-static", "-DSAMEBITS_ISA=baseline", *extra]
    subprocess.run([*command, str(ROOT / "tests" / "ops" / "portable.cpp"), *SOURCES, "-o", str(program)], check=True)
    done = subprocess.run([*runner, str(program)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    lines = results(tmp_path_factory.mktemp("native"), "g++")
    assert len(lines) == 11
    return lines


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_other_architectures_give_the_same_bits(tmp_path: Path, native: list[str], machine: str) -> None:
    compiler, emulator = f"{machine}-linux-gnu-g++", f"qemu-{machine}"
    if not (shutil.which(compiler) and shutil.which(emulator)):
        pytest.skip(f"needs g++-{machine}-linux-gnu and qemu-user")
    assert results(tmp_path, compiler, runner=(emulator,)) == native


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flag is for x86-64")
def test_contraction_is_seen(tmp_path: Path, native: list[str]) -> None:
    """The control: the compiler may fuse, on a CPU that can."""
    if " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no FMA")
    contracted = results(tmp_path, "g++", "-ffp-contract=fast", "-march=x86-64-v3")
    assert contracted != native
