"""Look on while a run goes: its last steps as a picture in the terminal, and what is left to do.

    python -m pipeline.follow results/runs/fables
    fables  step 812 of 1000  loss 0.3032  norm 0.19  lr 3.4e-04  21,000 tokens/s  eta 18 s  7 spikes, the last at 469
     6.256 |⣁
           |⢀⡀
           |⠀⣀
    0.3032 |⠀⠐⠲⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⣄⣀⣀⣀⣀⣀⣀
    python -m pipeline.follow results/runs/fables --tensorboard results/tensorboard

Reads metrics.jsonl, which pipeline.train writes as it goes; it changes nothing there. It ends with the run, or by
Ctrl-C; with --once it prints once.
The time that is left is that of the last steps. A spike is a step whose z-score is above 6, as on the run's page.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from pathlib import Path

from cuda_ops.bounds import real, whole
from cuda_ops.errors import UserError, exit_on_user_error
from cuda_ops.output import listing
from pipeline.machine.progress import duration
from pipeline.recipe.paths import METRICS
from pipeline.records import metrics
from pipeline.records.tensorboard import Events
from pipeline.training.outliers import Outliers

Z = 6.0
RECENT = 20  # steps that a rate is the mean of
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille cell, by row and column


def picture(values: list[float], width: int, height: int) -> list[str]:
    """A curve in Braille dots, 2 by 4 to a character, the largest value at the top; its scale stands on the left."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    columns, rows = 2 * width, 4 * height
    cells = [[0] * width for _ in range(height)]
    for x in range(columns):
        part = values[
            x * len(values) // columns : max(x * len(values) // columns + 1, (x + 1) * len(values) // columns)
        ]
        for value in (min(part), max(part)):
            y = min(rows - 1, int((high - value) / span * (rows - 1) + 0.5))
            cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"] if height > 1 else [f"{high:.4g}"]
    margin = max(map(len, labels))
    return [
        f"{label:>{margin}} |" + "".join(chr(0x2800 + cell) for cell in row).rstrip("\u2800")
        for label, row in zip(labels, cells, strict=True)
    ]


def spikes(rows: list[metrics.Row]) -> list[int]:
    """The steps whose loss or norm is an outlier."""
    series = {"loss": Outliers(), "norm": Outliers()}
    values = [(row["step"], {"loss": row["loss"], "norm": row["norm"]}) for row in rows]
    return [step for step, of in values if sum(window.take(of[name], Z)[1] for name, window in series.items())]


def shown(path: Path, width: int, height: int, now: float) -> list[str]:
    """What is to be seen of a run: a line of numbers, and the curve of its loss."""
    found = list(metrics.read(path))
    head = next((row for row in found if "steps" in row), None)
    rows = [row for row in found if "step" in row]
    if head is None:
        raise UserError(f"{path}: no such file, or not of a run; pipeline.train writes it as it goes")
    if not rows:
        return [f"{head['recipe']}  no step of {head['steps']} has ended yet"]
    last, recent = rows[-1], rows[-RECENT:]
    rate = (
        len(recent)
        * head["units"]
        / max(1e-9, math.fsum(head["units"] / max(1e-9, row["per_second"]) for row in recent))
    )
    left = (head["steps"] - last["step"]) * head["units"] / max(1e-9, rate)
    found_spikes = spikes(rows)
    marked = f"  {len(found_spikes)} spikes, the last at {found_spikes[-1]}" if found_spikes else "  no spikes"
    silent = now - last["at"]
    late = f"  silent for {duration(silent)}" if left and silent > 10 * head["units"] / max(1e-9, rate) + 5 else ""
    text = (
        f"{head['recipe']}  step {last['step']} of {head['steps']}  loss {last['loss']:.4f}  norm {last['norm']:.2f}  "
        f"lr {last['lr']:.1e}  {rate:,.0f} {head['unit']}s/s  eta {duration(left)}{marked}{late}"
    )
    return [text, *picture([row["loss"] for row in rows], max(10, width - 10), height)]


def ended(path: Path) -> bool:
    """Whether the last step of the run has been taken."""
    rows = list(metrics.read(path))
    last, steps = rows[-1], next(row["steps"] for row in rows if "steps" in row)
    return last["step"] == steps if "step" in last else steps == 0


def to_tensorboard(path: Path, folder: Path, after: int, events: Events | None) -> tuple[int, Events | None]:
    """Write the steps after `after` as scalars; returns the last one written."""
    for row in metrics.read(path):
        if "step" not in row or row["step"] <= after:
            continue
        events = events or Events(folder, path.parent.name, row["at"])
        scalars = {"loss": row["loss"], "norm": row["norm"], "lr": row["lr"], "per_second": row["per_second"]}
        for name, value in scalars.items():
            events.add(name, value, row["step"], row["at"])
        after = row["step"]
    return after, events


def main() -> int:
    parser = argparse.ArgumentParser(description="Look on while a run goes.")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--once", action="store_true", help="print once and end")
    parser.add_argument("--every", type=real(0.0, 86_400.0, above=True), default=2.0, help="seconds between looks")
    parser.add_argument("--height", type=whole(1, 1000), default=8, help="lines of the picture")
    parser.add_argument("--tensorboard", type=Path, help="folder to write event files into as well")
    args = parser.parse_args()
    if args.run.is_file():
        raise UserError(f"{args.run}: a file; name the folder of a run")
    path, after, events, before = args.run / METRICS, 0, None, 0
    while True:
        width = shutil.get_terminal_size((100, 24)).columns
        lines = shown(path, width, args.height, time.time())
        if args.tensorboard:
            after, events = to_tensorboard(path, args.tensorboard, after, events)
        if before and sys.stdout.isatty():
            print(f"\x1b[{before}A\x1b[J", end="")
        listing("\n".join(lines))
        before = len(lines)
        if args.once or ended(path):
            return 0
        try:
            time.sleep(args.every)
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    exit_on_user_error(main)
