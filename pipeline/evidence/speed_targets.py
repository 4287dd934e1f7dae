"""What the GPU proof asks of speed, and which of it a measurement meets.

Numbers come from benchmarks/gpu.py and benchmarks/step.py (--json), measured beside PyTorch on the same GPU in the
same run. An op is held against what docs/kernels.md predicts for it, at the traffic stated there: nine tenths of the
predicted share. So a perfect GPU passes, and a kernel that lost a tenth does not. The predictions of products,
attention and the step are counted in machine code, for which a GPU's machine may lack the tools: they lie in
predicted.json, written with the page by python -m benchmarks.predict --write.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import ge, le
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

PREDICTED = Path(__file__).with_name("predicted.json")
OF_PREDICTION = 0.9  # what is asked of a predicted share
MATMUL_SHARE = 0.70  # all products of a step together, of the measured peak of fp32 FMA; a little less than predicted
# PyTorch's speed is not predicted: up to which of it these two hold is on the page (docs/kernels.md).
MATMUL_RATIO = 0.90  # all products of a step, of the speed of PyTorch's fp32 matmul, TF32 off
STEP_RATIO = 1.00  # of the speed of PyTorch's compiled fp32 step, TF32 off
# Words of a GPU's name with the multiprocessors and the clock of the prediction; an H200's memory is faster.
TOKENS_PER_SECOND_ON = ("H100 80GB HBM3", "H200")
GROWN_MIB = 0.0  # of GPU memory, after the step that records the graphs


@dataclass(frozen=True)
class Traffic:
    """Of an op that memory bounds: bytes moved per element of its largest tensor, and the predicted share of the copy
    bandwidth.
    """

    bytes: float
    share: float


# docs/kernels.md, Predictions: reads + writes.
TRAFFIC = {
    "embedding": Traffic(4 + 4, 0.8),  # a row of each table is read; the tables' own rows come again from the cache
    "embedding backward": Traffic(8 + 4, 0.5),
    "embedding add": Traffic(8 + 4, 0.8),
    "layernorm forward": Traffic(4 + 4, 0.8),
    "layernorm backward": Traffic(
        20 + 4, 0.8
    ),  # gradient and input twice (columns, then rows), the residual's gradient; out
    "gelu forward": Traffic(4 + 4, 0.9),
    "gelu backward": Traffic(8 + 4, 0.9),
    "add": Traffic(8 + 4, 0.9),
    "bias backward": Traffic(4, 0.8),
    "cross entropy + gradient": Traffic(12 + 4, 0.9),  # maximum, sum, gradient
    "adamw": Traffic(16 + 12, 0.9),
    "gradient norm": Traffic(4, 0.8),
    "fingerprint": Traffic(4, 0.8),
    "attention cached": Traffic(8, 0.5),  # keys and values once, few blocks
}


class Predicted(TypedDict):
    """predicted.json, which benchmarks/predict.py writes."""

    nvcc: str | None  # its version, where the machine code was counted
    shares: dict[str, float]  # of the FMA peak, by "<model> <op>"
    products: dict[str, float]  # of a step together, of the FMA peak, by model
    tokens_per_second: int  # of a step of 124M


@cache
def predictions() -> Predicted:
    """What predicted.json holds."""
    found: Predicted = json.loads(PREDICTED.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Target:
    """One target: what was asked, what was found, and where. found and met are None if nothing was measured."""

    what: str
    asked: float
    found: float | None
    where: str
    met: bool | None

    def words(self) -> str:
        return (
            f"{self.what}: {self.found:.2f} at {self.where}, asked {self.asked:.2f}"
            if self.found is not None
            else self.what
        )


def predicted(row: dict[str, Any]) -> float | None:
    """The share of its limit that an op of benchmarks/gpu.py is predicted to reach; None: nothing is predicted."""
    if row["kind"] in ("matmul", "attention"):
        return predictions()["shares"].get(f"{row['model']} {row['op']}")
    return TRAFFIC[row["op"]].share if row["kind"] == "memory" else None


def judge(ops: list[dict[str, Any]], steps: list[dict[str, Any]], gpu: str) -> list[Target]:
    """Every target against the rows of ops and steps, as far as they go: what was not measured is neither met nor
    missed.
    """

    def target(
        what: str, asked: float, values: list[tuple[float, str]], holds: Callable[[float, float], bool]
    ) -> Target:
        """The worst of some values."""
        if not values:
            return Target(what, asked, None, "not measured", None)
        found, where = (min if holds is ge else max)(values)
        return Target(what, asked, found, where, holds(found, asked))

    ours = [row for row in steps if row["side"].startswith("samebits")]
    compiled = {row["model"]: row["tokens_per_second"] for row in steps if row["side"] == "compiled"}
    ratios = [(r["tokens_per_second"] / compiled[r["model"]], r["model"]) for r in ours if r["model"] in compiled]
    grown = [(row["grown_mib"], row["model"]) for row in ours if "grown_mib" in row]
    found = [target("step, speed over torch.compile's", STEP_RATIO, ratios, ge)]
    if any(f" {name}" in gpu for name in TOKENS_PER_SECOND_ON):
        asked = OF_PREDICTION * predictions()["tokens_per_second"]
        rates = [(row["tokens_per_second"], row["model"]) for row in ours if row["model"].startswith("124M")]
        found.append(target(f"step, tokens/s on an {gpu}", asked, rates, ge))
    found.append(target("step, MiB that memory grew by once graphs exist", GROWN_MIB, grown, le))
    shares, speeds = [], []
    for model in dict.fromkeys(row["model"] for row in ops):
        products = [row for row in ops if row["kind"] == "matmul" and row["model"] == model]
        total = {key: sum(row["calls"] * row[key] for row in products) for key in ("limit", "ours", "torch")}
        if products:
            shares.append((total["limit"] / total["ours"], model))
            speeds.append((total["torch"] / total["ours"], model))
    found.append(target("products of a step, share of the FMA peak", MATMUL_SHARE, shares, ge))
    found.append(target("products of a step, speed over PyTorch's", MATMUL_RATIO, speeds, ge))
    for row in ops:
        share = predicted(row)
        if share is not None:
            limit = "copy bandwidth" if row["kind"] == "memory" else "FMA peak"
            what = f"{row['model']} {row['op']}, share of the {limit}"
            found.append(target(what, round(OF_PREDICTION * share, 3), [(row["share"], row["shape"])], ge))
    return found


def table(targets: list[dict[str, Any]]) -> list[str]:
    """The verdicts as lines of a page."""
    lines = ["| target | asked | found | where | verdict |", "|---|---|---|---|---|"]
    words = {True: "met", False: "not met", None: "not measured"}
    for t in targets:
        found = "–" if t["found"] is None else f"{t['found']:,.2f}"
        lines.append(f"| {t['what']} | {t['asked']:,.2f} | {found} | {t['where']} | {words[t['met']]} |")
    return lines
