"""Compile the ops.

    python -m pipeline.compile --out results/build
    results/build/samebits_ops.so  sources 5f0c21d7a9be  g++ -O3, levels baseline v3 v4
    CPU only: no GPU that the CUDA kernels are written for is present

Writes samebits_ops.so and ops.digest, the SHA-256 of sources and arithmetic flags, which is the same on every machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops import build, flags
from cuda_ops.errors import exit_on_user_error


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the ops.")
    parser.add_argument("--out", type=Path, default=Path("results/build"), help="folder of the library")
    parser.add_argument("--opt-level", type=int, choices=(0, 1, 2, 3), default=3, help="changes speed, never a bit")
    parser.add_argument("--cxx", help="C++ compiler (default: $CXX, g++, clang++)")
    parser.add_argument("--threads", type=int, help="parallel compilations")
    parser.add_argument(
        "--archs",
        default="auto",
        help=f"CUDA kernels: auto (the GPUs present), none, all, or any of {','.join(flags.ARCHS)}",
    )
    args = parser.parse_args()
    digest, cuda = build.build(args.out, args.opt_level, args.cxx, args.threads, args.archs)
    compiler = Path(build.find_compiler(args.cxx)).name
    print(
        f"{args.out / build.LIBRARY}  sources {digest[:12]}  {compiler} -O{args.opt_level}, "
        f"levels {' '.join(flags.levels())}\n{cuda}"
    )
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
