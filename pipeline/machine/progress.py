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
    """A line in place on a terminal. In a log the first after two seconds, the last, and between them one at every tenth
    of what this process has to do, or every half minute: nobody watches.
    """

    FIRST, LATEST = 2.0, 30.0  # seconds

    def __init__(self, recipe: Recipe, until: int, shown: bool) -> None:
        self.units, self.unit = recipe.bits.units, recipe.bits.model.unit
        self.steps, self.until, self.shown = recipe.bits.steps, until, shown
        self.began = self.last = time.perf_counter()
        self.done = self.said = 0  # steps of this process; those when a log had its last line

    @property
    def rate(self) -> float:
        """Tokens, or images, per second of this process's steps so far."""
        return self.done * self.units / max(1e-9, time.perf_counter() - self.began)

    def _until(self, step: int, end: int) -> str:
        return duration((end - step) * self.units / max(1e-9, self.rate))

    def _due(self, step: int, waited: float) -> bool:
        """Whether a log gets a line of this step, which is not the last."""
        tenth = (self.done + self.until - step) / 10
        return waited > self.LATEST or (waited > self.FIRST and (not self.said or self.done - self.said >= tenth))

    def __call__(self, line: chain.Line) -> None:
        self.done += 1
        now = time.perf_counter()
        final = line.step == self.until
        tty = sys.stderr.isatty()
        waited = now - self.last
        if not self.shown or not (final or (waited > 0.1 if tty else self._due(line.step, waited))):
            return
        self.last, self.said = now, self.done
        text = (
            f"step {line.step}/{self.steps}  loss {line.loss:.4f}  norm {line.norm:.2f}  lr {line.lr:.1e}  "
            f"{self.rate:,.0f} {self.unit}s/s  eta {self._until(line.step, self.until)}"
        )
        if self.until < self.steps:
            text += f", of the run {self._until(line.step, self.steps)}"
        end = "\n" if final or not tty else ""
        print(("\r\x1b[K" if tty else "") + text, end=end, file=sys.stderr, flush=True)
