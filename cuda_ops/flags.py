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

# How it is built: may differ between machines and never changes a bit.
BUILD = {
    "-fPIC": "a shared library",
    "-fopenmp": "threads share out outputs (cpu/parallel.h)",
    "-fvisibility=hidden": "only the registration and the digest are visible",
    "-fno-plt": "fewer indirections between our own functions",
    "-Wall": "warnings are read",
    "-Wno-unknown-pragmas": "GCC unroll pragmas are hints that clang may not know",
}

# Each kernel is compiled once per level; cpu/dispatch.cpp picks at run time, so one library runs on any CPU.
X86_LEVELS = {
    "baseline": ("-march=x86-64", "any x86-64: SSE2, no FMA instruction, fma emulated exactly"),
    "v3": ("-march=x86-64-v3", "AVX2 and FMA"),
    "v4": ("-march=x86-64-v4", "AVX-512; 512-bit registers for the tiles"),
}


def levels() -> dict[str, list[str]]:
    """Instruction-set levels of this machine's architecture with their flags."""
    if platform.machine() in ("x86_64", "AMD64"):
        wide = {"v4": ["-mprefer-vector-width=512"]}
        return {name: [flag, *wide.get(name, [])] for name, (flag, _) in X86_LEVELS.items()}
    return {"baseline": []}
