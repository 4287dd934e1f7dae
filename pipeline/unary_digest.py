"""The elementary functions over every fp32 input: one 64-bit fingerprint each, compared with the published ones.

    python -m pipeline.unary_digest
    exp              4294967296 inputs  6f9d3b…  equal  (35 s)
    …
    config/expected/unary.json: all 7 functions equal

An input is a bit pattern, its position in the fingerprint (docs/numerics.md) is that pattern as an integer; a NaN counts as
7fc00000, whatever its payload. cos_turn and sin_turn are defined on [0, 1), so theirs are the patterns 0 to 3f7fffff. The sum
has no order, so pieces, threads and devices cannot change it. Exit code 1 if a function differs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from cuda_ops import ops, runtime
from cuda_ops.bounds import MOST_THREADS, whole
from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_json
from pipeline.records.digests import EXPECTED

PUBLISHED = EXPECTED / "unary.json"
TURN_END = 0x3F800000  # the bits of 1.0
PIECE = 2**24


def inputs_of(function: str) -> int:
    """How many bit patterns, from 0, the function is defined on."""
    return TURN_END if function.endswith("_turn") else 2**32


def digest(function: str, device: str | torch.device = "cpu", stride: int = 1) -> str:
    """Fingerprint of the function over its inputs as 16 hex digits; stride > 1 takes every stride-th piece of 2^24 only."""
    positions = torch.arange(PIECE, dtype=torch.int32, device=device)
    bits, out = torch.empty_like(positions), torch.empty(PIECE, device=device)
    total = 0
    for first in range(0, inputs_of(function), PIECE * stride):
        count = min(PIECE, inputs_of(function) - first)
        torch.add(positions, first - 2**32 if first >= 2**31 else first, out=bits)
        ops.unary(out, bits.view(torch.float32), function)
        out.masked_fill_(out.isnan(), float("nan"))
        total += ops.fingerprint(out[:count], first)
    return f"{total % 2**64:016x}"


def published(path: Path = PUBLISHED) -> dict[str, str]:
    """The published fingerprints by function."""
    if not path.exists():
        raise UserError(f"{path}: no such file; python -m pipeline.unary_digest --write on a CPU makes it")
    content: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return content


def main() -> int:
    parser = argparse.ArgumentParser(description="The elementary functions over every fp32 input.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--functions", default=",".join(ops.FUNCTIONS), help="separated by commas")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=2)
    parser.add_argument("--write", action="store_true", help="publish what is found instead of comparing")
    args = parser.parse_args()
    unknown = sorted(set(args.functions.split(",")) - set(ops.FUNCTIONS))
    if unknown:
        raise UserError(f"--functions {','.join(unknown)}: allowed are {', '.join(ops.FUNCTIONS)}")
    if args.write and (args.device != "cpu" or set(args.functions.split(",")) != set(ops.FUNCTIONS)):
        raise UserError("--write publishes all functions as a CPU computes them: leave out --device and --functions")
    runtime.set_threads(args.threads)
    expected = {} if args.write else published()
    found: dict[str, str] = {}
    for function in args.functions.split(","):
        began = time.perf_counter()
        found[function] = digest(function, args.device)
        verdict = "" if args.write else "equal" if found[function] == expected.get(function) else "DIFFERS"
        seconds = time.perf_counter() - began
        print(
            f"{function:16} {inputs_of(function)} inputs  {found[function]}  {verdict}  ({seconds:.0f} s)", flush=True
        )
    if args.write:
        write_json(PUBLISHED, found)
        return 0
    wrong = [function for function in found if found[function] != expected.get(function)]
    print(f"{PUBLISHED}: " + (f"{', '.join(wrong)} differ" if wrong else f"all {len(found)} functions equal"))
    return 1 if wrong else 0


if __name__ == "__main__":
    exit_on_user_error(main)
