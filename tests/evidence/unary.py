"""The elementary functions over every fp32 input: fingerprint, largest error, share not correctly rounded.

    python -m tests.evidence.unary [exp ...]   writes docs/evidence/unary.json; about a minute per function on two cores
    exp              4294967296 inputs  c35926da56654258  1.0105 ulp at 4287b5a4  ...

unary.cpp does the work, without torch. The fingerprints are those that config/expected/unary.json publishes and a GPU
is compared with; this is their second computation, by other code.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from cuda_ops import flags, ops
from tests.evidence.common import EVIDENCE, ROOT, save

TURN_END = 0x3F800000  # the bits of 1.0


def compile_program(folder: Path, isa: str) -> Path:
    program = folder / f"unary-{isa}"
    sources = [ROOT / "tests" / "evidence" / "unary.cpp", ROOT / "cuda_ops" / "cpu" / "unary.cpp"]
    command = ["g++", *flags.ARITHMETIC, "-O3", "-w", "-fopenmp", f"-DSAMEBITS_ISA={isa}", *flags.levels()[isa]]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    return program


def measure(program: Path, function: str, first: int = 0, step: int = 1) -> dict[str, Any]:
    """What the program says of one function; step > 1 takes every step-th piece of 2^16 inputs."""
    end = TURN_END if function.endswith("_turn") else 2**32
    command = [str(program), str(ops.FUNCTIONS.index(function)), str(first), str(end), str(step)]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {"inputs": int(words[0]), "fingerprint": words[1], "largest_error_ulp": float(words[2]), "at": words[3],
            "largest_absolute_error_below_1": float(words[4]), "share_not_correctly_rounded": float(words[5])}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="The elementary functions over every fp32 input.")
    parser.add_argument("functions", nargs="*", default=ops.FUNCTIONS)
    path = EVIDENCE / "unary.json"
    found = json.loads(path.read_text())["functions"] if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(Path(folder), list(flags.levels())[-1])
        for function in parser.parse_args().functions:
            began = time.perf_counter()
            f = found[function] = measure(program, function)
            print(f"{function:16} {f['inputs']} inputs  {f['fingerprint']}  {f['largest_error_ulp']} ulp at {f['at']}  "
                  f"({time.perf_counter() - began:.0f} s)", flush=True)  # fmt: skip
            save("unary", {"functions": found})


if __name__ == "__main__":
    main()
