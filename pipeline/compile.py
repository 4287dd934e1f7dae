"""Compile the ops.

    python -m pipeline.compile --out results/build
    results/build/samebits_ops.so  sources 5f0c21d7a9be  g++ -O3, levels baseline v3 v4
    CPU only: no GPU that the CUDA kernels are written for is present

Writes samebits_ops.so; ops.digest, the SHA-256 of sources and arithmetic flags, the same on every machine;
compile_commands.json for editors.

    python -m pipeline.compile --sanitize --out results/sanitized

makes a library whose CPU kernels look for wrong addresses and undefined behaviour. gcc's runtime must be there first:

    LD_PRELOAD="$(g++ -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 SAMEBITS_BUILD=results/sanitized \\
        python -m tests.ops.cases all.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops import build, flags
from cuda_ops.bounds import MOST_THREADS, whole
from cuda_ops.errors import UserError, exit_on_user_error, writing


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the ops.")
    parser.add_argument("--out", type=Path, default=Path("results/build"), help="folder of the library")
    parser.add_argument("--opt-level", type=int, choices=(0, 1, 2, 3), default=3, help="changes speed, never a bit")
    parser.add_argument("--cxx", help="C++ compiler (default: $CXX, g++, clang++)")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), help="parallel compilations")
    parser.add_argument(
        "--archs",
        default="auto",
        help=f"CUDA kernels: auto (the GPUs present), none, all, or any of {','.join(flags.ARCHS)}",
    )
    parser.add_argument("--sanitize", action="store_true", help="for tests: CPU kernels that check themselves, no CUDA")
    args = parser.parse_args()
    if args.sanitize and args.out == parser.get_default("out"):
        raise UserError(f"--sanitize: {args.out} is the library that trains; name another folder with --out")
    archs = "none" if args.sanitize else args.archs
    with writing(args.out):
        digest, cuda = build.build(args.out, args.opt_level, args.cxx, args.threads, archs, args.sanitize)
    compiler = Path(build.find_compiler(args.cxx)).name
    print(
        f"{args.out / build.LIBRARY}  sources {digest[:12]}  {compiler} -O{args.opt_level}, "
        f"levels {' '.join(flags.levels())}\n{cuda}"
    )
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
