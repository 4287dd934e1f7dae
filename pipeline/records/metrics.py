"""metrics.jsonl: a line per step as a run goes, for whoever looks on. It holds times, so it is no artefact with a digest.

The first line is a Head, every other a Row. A run that goes on from a checkpoint drops the lines after it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast, final

from typing_extensions import TypedDict

from cuda_ops.errors import refusal
from pipeline.base.chain import Line
from pipeline.base.files import write_bytes
from pipeline.recipe import Recipe


@final  # so that a key tells the two apart
class Head(TypedDict):
    """The first line."""

    recipe: str
    steps: int
    unit: str
    units: int  # of a step


@final
class Row(TypedDict):
    """A step."""

    step: int
    loss: float
    lr: float
    norm: float
    seconds: float  # since the segment began
    per_second: float  # units
    at: float  # Unix time


def read(path: Path) -> Iterator[Head | Row]:
    """The values of the lines that are whole; the last one may be half written, and what else is no line is passed over."""
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    found: Any = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict) and _sound(found):
                    row: Head | Row = found  # type: ignore[assignment]
                    yield row


HEAD = {"recipe": str, "steps": int, "unit": str, "units": int}


def _sound(row: dict[str, Any]) -> bool:
    """Whether a line is one that Metrics writes: the first, or a step's with all its numbers."""
    head = all(type(row.get(key)) is kind for key, kind in HEAD.items())
    return head or (type(row.get("step")) is int and all(_is_number(row.get(name)) for name in Row.__annotations__))


def _is_number(value: object) -> bool:
    """An integer that no float holds is none."""
    return type(value) in (int, float) and abs(cast("float", value)) <= sys.float_info.max


class Metrics:
    """The file of a run under way, from the step after `after`; rank 0 alone has one."""

    def __init__(self, path: Path, recipe: Recipe, after: int) -> None:
        bits = recipe.bits
        head: Head = {"recipe": recipe.name, "steps": bits.steps, "unit": bits.model.unit, "units": bits.units}
        kept = [row for row in read(path) if "step" in row and 0 < row["step"] <= after]
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in [head, *kept]).encode())
        self._file: BinaryIO = open(path, "ab", buffering=0)  # noqa: SIM115 (as long as the run)
        self._path, self._missed = path, 0
        self._units, self._began, self._last = bits.units, time.perf_counter(), time.perf_counter()

    def __call__(self, line: Line) -> None:
        """Write the line of a step that has just ended."""
        now = time.perf_counter()
        row: Row = {
            "step": line.step, "loss": line.loss, "lr": line.lr, "norm": line.norm,
            "seconds": round(now - self._began, 4), "per_second": round(self._units / max(1e-9, now - self._last), 2),
            "at": round(time.time(), 3),
        }  # fmt: skip
        self._last = now
        # A full disk costs lines, never the run; a line after one that was cut off begins anew.
        content = ("\n" if self._missed else "") + json.dumps(row) + "\n"
        try:
            whole = self._file.write(content.encode()) == len(content)
            words = f"{self._path}: a line was cut off"
        except OSError as error:
            whole, words = False, refusal(error, self._path) or f"{self._path}: {error}"
        if not whole and not self._missed:
            print(f"warning: {words}; lines are missing, the run goes on", file=sys.stderr)
        self._missed = 0 if whole else self._missed + 1

    def close(self) -> None:
        self._file.close()
