"""What training says while it runs: step, loss, speed, and when the segment and the run will end."""

from __future__ import annotations

import sys
import time

from pipeline.base import chain
from pipeline.recipe import Recipe


def duration(seconds: float) -> str:
    """A time to wait, in a unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Progress:
    """A line in place on a terminal; every two seconds, a line in a log."""

    def __init__(self, recipe: Recipe, until: int, shown: bool) -> None:
        self.units, self.unit = recipe.bits.units, recipe.bits.model.unit
        self.steps, self.until, self.shown = recipe.bits.steps, until, shown
        self.began = self.last = time.perf_counter()
        self.done = 0

    @property
    def rate(self) -> float:
        """Tokens, or images, per second of this process's steps so far."""
        return self.done * self.units / max(1e-9, time.perf_counter() - self.began)

    def _until(self, step: int, end: int) -> str:
        return duration((end - step) * self.units / max(1e-9, self.rate))

    def __call__(self, line: chain.Line) -> None:
        self.done += 1
        now = time.perf_counter()
        final = line.step == self.until
        tty = sys.stderr.isatty()
        if not self.shown or not (final or now - self.last > (0.1 if tty else 2.0)):
            return
        self.last = now
        text = (
            f"step {line.step}/{self.steps}  loss {line.loss:.4f}  norm {line.norm:.2f}  lr {line.lr:.1e}  "
            f"{self.rate:,.0f} {self.unit}s/s  eta {self._until(line.step, self.until)}"
        )
        if self.until < self.steps:
            text += f", of the run {self._until(line.step, self.steps)}"
        end = "\n" if final or not tty else ""
        print(("\r\x1b[K" if tty else "") + text, end=end, file=sys.stderr, flush=True)
