"""Every compiler flag, each with its reason. No flag that may change a bit is set anywhere else."""

from __future__ import annotations

import platform

# What the arithmetic rests on: part of the digest that the library carries.
ARITHMETIC = {
    "-std=c++17": "the language the sources are written in",
    "-ffp-contract=off": "a*b+c stays two roundings; a fused one is written fma_",
    "-fno-fast-math": "no reassociation, no flush to zero, no reciprocal estimates",
    "-fno-math-errno": "sqrt is the instruction, not a libm call that sets errno",
    "-fno-trapping-math": "comparisons may be vectorised; no value changes",
}

# The same for nvcc; part of the digest too, whether or not a library has CUDA kernels.
DEVICE_ARITHMETIC = {
    "-fmad=false": "a*b+c stays two roundings; a fused one is written fma_",
    "-ftz=false": "subnormals are kept",
    "-prec-div=true": "division is rounded correctly",
    "-prec-sqrt=true": "so is the square root",
}

# How it is built: may differ between machines and never changes a bit.
BUILD = {
    "-fPIC": "a shared library",
    "-fopenmp": "threads share out outputs (cpu/parallel.h)",
    "-fvisibility=hidden": "only the registration and the digest are visible",
    "-fno-plt": "fewer indirections between our own functions",
    "-Wall": "warnings are read",
    "-Wno-unknown-pragmas": "GCC unroll pragmas are hints that clang may not know",
}

# For a library that is tested, never one that trains.
SANITIZERS = {
    "-fsanitize=address,undefined": "reads and writes outside of arrays, and what the language leaves undefined",
    "-fno-sanitize-recover=all": "the first one ends the process",
    "-fno-omit-frame-pointer": "whole stacks in the message",
    "-g": "with lines",
}

# Each kernel is compiled once per level; cpu/dispatch.cpp picks at run time, so one library runs on any CPU.
X86_LEVELS = {
    "baseline": ("-march=x86-64", "any x86-64: SSE2, no FMA instruction, fma emulated exactly"),
    "v3": ("-march=x86-64-v3", "AVX2 and FMA"),
    "v4": ("-march=x86-64-v4", "AVX-512; 512-bit registers for the tiles"),
}

# How .cu files are built: changes no bit.
DEVICE_BUILD = {
    "-std=c++17": "the language the sources are written in",
    "-O3": "the launchers' host code; ptxas optimises at its highest level anyway",
    "-frandom-seed=samebits": "names inside the object do not depend on the process",
    "--objdir-as-tempdir": "nor on a temporary folder, so that two builds give the same object",
    "-Xcudafe --diag_suppress=20208": "long double in the standard headers is no use of ours",
}

# Every architecture that the CUDA kernels are written and audited for. Machine code for a.b runs on a.c, c >= b; with an
# "a" it has instructions of that one capability and runs there alone.
ARCHS = {
    "80": "Ampere: A100, A30",
    "86": "Ampere: A40, RTX 30",
    "89": "Ada: L4, L40, RTX 40",
    "90a": "Hopper: H100, H200",
    "100": "Blackwell: B200, B300",
    "120": "Blackwell: RTX 50, RTX PRO",
}


def gencode(archs: list[str]) -> list[str]:
    """Machine code for each architecture and no PTX: a driver's own compiler never gets to see the kernels."""
    return [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]


def levels() -> dict[str, list[str]]:
    """Instruction-set levels of this machine's architecture with their flags."""
    if platform.machine() in ("x86_64", "AMD64"):
        wide = {"v4": ["-mprefer-vector-width=512"]}
        return {name: [flag, *wide.get(name, [])] for name, (flag, _) in X86_LEVELS.items()}
    return {"baseline": []}
