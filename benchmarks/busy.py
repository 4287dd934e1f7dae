"""A training step beside busy loops, one per core, and alone; ours and PyTorch's.

    python -m benchmarks.busy --rounds 5
    | side | alone, tokens/s | beside busy loops | share |

A loop per core leaves half of the machine, were it shared out fairly. What is lost beyond that is threads waiting
for one another. Rounds are interleaved and the median of each is taken: beside loops a lucky share of the processor adds as
often as an unlucky one takes away. `spinning` is ours with libgomp's own way of waiting, which cuda_ops/__init__.py replaces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

# Looks at a flag before a thread of libgomp sleeps; 30 billion is what its active waiting takes.
SIDES = {"samebits": {}, "samebits, spinning": {"GOMP_SPINCOUNT": "30000000000"}, "eager": {}}
LOOP = "while True: pass"


def measure(side: str, name: str, threads: int, seconds: float) -> float:
    """Tokens/s of one side in a process of its own."""
    package = "pipeline" if side.startswith("samebits") else "sys"  # imported first, as by every stage of ours
    what = side.partition(",")[0]
    code = (
        f"import {package}, json\nfrom benchmarks.step import measure\n"
        f"print(json.dumps(measure({what!r}, {name!r}, {threads}, {seconds}, 'cpu')))"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | SIDES[side], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step beside busy loops.")
    parser.add_argument("--config", default="4x128", help="a model of benchmarks/step.py")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of steps per process")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args = parser.parse_args()
    found: dict[tuple[str, bool], list[float]] = {}
    for number in range(args.rounds):
        for busy in (False, True):
            for side in SIDES:
                loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(args.threads if busy else 0)]
                try:
                    rate = measure(side, args.config, args.threads, args.seconds)
                finally:
                    for loop in loops:
                        loop.kill()
                        loop.wait()
                found.setdefault((side, busy), []).append(rate)
                print(f"round {number + 1} {side} {'busy' if busy else 'alone'}: {rate:,.0f}", file=sys.stderr)
    from benchmarks.table import (  # late: they import torch, which this process does not need while it measures
        header,
        write,
    )

    lines = [header(args.threads, f"median of {args.rounds} rounds, {args.config}"), ""]
    lines += ["| side | alone, tokens/s | beside busy loops | share |", "|---|---|---|---|"]
    for side in SIDES:
        alone, busy_rate = (statistics.median(found[side, busy]) for busy in (False, True))
        lines.append(f"| {side} | {alone:,.0f} | {busy_rate:,.0f} | {busy_rate / alone:.2f} |")
    write(lines, args.out)


if __name__ == "__main__":
    main()
