"""What the GPU proof asks of speed, and which of it a measurement meets.

Numbers come from benchmarks/gpu.py and benchmarks/step.py (--json), measured beside PyTorch on the same GPU in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import ge, le
from typing import Any

MATMUL_SHARE = 0.70  # of the measured peak of fp32 FMA
MATMUL_RATIO = 0.90  # of the speed of PyTorch's fp32 matmul, TF32 off
MEMORY_SHARE = 0.80  # of the measured copy bandwidth, by an op that memory bounds
STEP_RATIO = 1.00  # of the speed of PyTorch's compiled fp32 step, TF32 off
TOKENS_PER_SECOND = {"H200": 40_000.0}  # of the step, where one is set for the GPU
GROWN_MIB = 0.0  # of GPU memory, after the step that records the graphs


@dataclass(frozen=True)
class Target:
    """One target: what was asked, the worst that was found, and where. `found` is None if nothing was measured."""

    what: str
    asked: float
    found: float | None
    where: str
    met: bool


def judge(ops: list[dict[str, Any]], steps: list[dict[str, Any]], gpu: str) -> list[Target]:
    """Every target against the rows of ops and steps; what was not measured is not met."""

    def target(
        what: str, asked: float, values: list[tuple[float, str]], holds: Callable[[float, float], bool]
    ) -> Target:
        if not values:
            return Target(what, asked, None, "not measured", False)
        found, where = (min if holds is ge else max)(values)
        missed = sum(not holds(value, asked) for value, _ in values)
        return Target(what, asked, found, f"{where}; {len(values) - missed} of {len(values)} hold", not missed)

    def of(kind: str, key: str) -> list[tuple[float, str]]:
        return [(row[key], row["op"]) for row in ops if row["kind"] == kind]

    ours = [row for row in steps if row["side"].startswith("samebits")]
    compiled = {row["model"]: row["tokens_per_second"] for row in steps if row["side"] == "compiled"}
    ratios = [(r["tokens_per_second"] / compiled[r["model"]], r["model"]) for r in ours if r["model"] in compiled]
    grown = [(row["grown_mib"], row["model"]) for row in ours if "grown_mib" in row]
    found = [
        target("matmul, share of the FMA peak", MATMUL_SHARE, of("matmul", "share"), ge),
        target("matmul, speed over PyTorch's", MATMUL_RATIO, of("matmul", "ratio"), ge),
        target("memory-bound ops, share of the copy bandwidth", MEMORY_SHARE, of("memory", "share"), ge),
        target("step, speed over torch.compile's", STEP_RATIO, ratios, ge),
        target("step, MiB that memory grew by once graphs exist", GROWN_MIB, grown, le),
    ]
    for name, asked in TOKENS_PER_SECOND.items():
        if name in gpu:
            speeds = [(row["tokens_per_second"], row["model"]) for row in ours]
            found.append(target(f"step, tokens/s on an {name}", asked, speeds, ge))
    return found


def table(targets: list[dict[str, Any]]) -> list[str]:
    """The verdicts as lines of a page."""
    lines = ["| target | asked | worst found | where | verdict |", "|---|---|---|---|---|"]
    for t in targets:
        found = "–" if t["found"] is None else f"{t['found']:,.2f}"
        lines.append(
            f"| {t['what']} | {t['asked']:,.2f} | {found} | {t['where']} | {'met' if t['met'] else 'not met'} |"
        )
    return lines
