"""python -m tests.cuda_on_cpu.build results/cuda_on_cpu

Compiles cuda_ops/kernels/*.cu with g++ against shim.h into a library whose every op runs through the CUDA sources on
CPU tensors. Any program takes it instead of the shipped one:

    SAMEBITS_BUILD=results/cuda_on_cpu SAMEBITS_SHIM_SCHEDULE=random:3 python -m pytest tests/ops/test_matmul.py
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from cuda_ops import build

HERE = Path(__file__).resolve().parent


def fast() -> list[str]:
    """FMA as an instruction where the CPU has it; it changes no bit."""
    cpuinfo = Path("/proc/cpuinfo")
    has = platform.machine() == "x86_64" and cpuinfo.exists() and " fma " in cpuinfo.read_text()
    return ["-march=x86-64-v3"] if has else []


def build_shim(
    out: Path,
    kernels: Path = build.ROOT / "kernels",
    *extra: str,
    opt_level: int = 2,
    only: str = "*",
    torch: bool = True,
) -> None:
    """out/samebits_ops.so from the .cu files of a folder; `extra` flags are for sabotage.

    Without torch it holds no operators and can be loaded beside the shipped library (tests/cuda_on_cpu/direct.py);
    `only` then names the .cu files to compile, by patterns with spaces between.
    """
    ninja = build.Ninja(build.find_compiler(None), opt_level)
    if torch:
        ninja.bindings(build.source_digest())
    shim = ["-DSAMEBITS_CUDA_ON_CPU", "-DSAMEBITS_ISA=device", "-Wno-unused-function", *fast(), *extra]
    ninja.compile(HERE / "shim.cpp", "shim", *shim)
    ninja.compile(HERE / "table.cpp", "table", "-DSAMEBITS_ISA=baseline")
    if not torch:
        ninja.compile(HERE / "direct.cpp", "direct", "-DSAMEBITS_ISA=baseline")
    for source in sorted(path for pattern in only.split() for path in kernels.glob(f"{pattern}.cu")):
        ninja.compile(source, source.stem, "-x c++", "-fno-gnu-unique", *shim)
    ninja.run(out.resolve())


if __name__ == "__main__":
    build_shim(Path(sys.argv[1]))
