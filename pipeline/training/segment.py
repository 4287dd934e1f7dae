"""A segment of a run: the steps up to a checkpoint, with rolling checkpoints on the way and the chain of its lines.

Killed at any instant and begun again, on any number of ranks, it goes on from the newest rolling checkpoint and ends
with the same bits. It prints nothing: `say` gets what a user should read, `seen` each line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.checkpoint import Rolling, Stored, load
from pipeline.machine.execution import Execution
from pipeline.training.trainer import Trainer

STOP, SAVE, ASKED = 1, 2, 4  # signal bits that the ranks share after each step; ASKED: to save, by a signal
SHARE = 20  # rolling checkpoints take at most about one part in so many of the time


class Segment:
    """A segment under way: the trainer, its chain so far, and the rolling checkpoints in `state`.

    previous: the checkpoint that it goes on from; None: the initial weights, of the file `init` if the recipe reads
    one.
    """

    def __init__(
        self, trainer: Trainer, execution: Execution, until: int, state: Path, say: Callable[[str], None], *,
        previous: Path | None = None, init: Path | None = None,
    ) -> None:  # fmt: skip
        self.trainer, self.execution, self.until, self.say = trainer, execution, until, say
        self.ranks, self.rolling = trainer.ranks, Rolling(state, execution.keep, execution.major)
        self.lines: list[chain.Line] = []
        self.resumed = 0
        self._saved_at, self._save_took = time.perf_counter(), 0.0
        if previous is None:
            trainer.initialise(init)
        else:
            trainer.restore(load(previous))
        if not (trainer.step < until <= trainer.recipe.bits.steps or trainer.recipe.bits.steps == until == 0):
            raise UserError(f"--steps-to {until}: expected {trainer.step + 1} to {trainer.recipe.bits.steps}")
        newest = self.rolling.newest(trainer.step, until, self._saved, say) if self.ranks.first else 0
        step = self.ranks.agree(newest)
        if step > 0:
            self._resume(step)

    def _saved(self, step: int) -> tuple[Stored, list[chain.Line]]:
        """A rolling checkpoint and the chain that leads to it; a UserError says which of the two is damaged."""
        stored, path = load(self.rolling.path(step)), self.rolling.chain_path(step)
        lines = chain.read(path)
        if chain.check(lines, self.trainer.link, path) != stored.link:
            raise UserError(f"{path} does not lead to {self.rolling.path(step)}")
        return stored, lines

    def _resume(self, step: int) -> None:
        stored, self.lines = self._saved(step)
        self.trainer.restore(stored)
        self.resumed = step
        if self.ranks.first:
            self.say(f"resuming from step {step} ({self.rolling.path(step)})")

    def save_rolling(self) -> None:
        """A rolling checkpoint: the chain first, so that a sound checkpoint always has one."""
        began, step = time.perf_counter(), self.trainer.step
        if self.ranks.first:
            chain.write(self.rolling.chain_path(step), self.lines)
        self.ranks.at("saving")
        self.trainer.save(self.rolling.path(step))
        if self.ranks.first:
            self.rolling.prune()
        self._saved_at = time.perf_counter()
        self._save_took = self._saved_at - began

    def _due(self) -> bool:
        """Whether time asks for a rolling checkpoint: so rarely that large ones do not take the time of training."""
        wait = max(self.execution.rolling, SHARE * self._save_took)
        return not self.execution.rolling_steps and time.perf_counter() - self._saved_at > wait

    def run(
        self, stopped: Callable[[], bool], seen: Callable[[chain.Line], None], saves: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train to the end; False if `stopped` of any rank ended it before, after a checkpoint. Where `saves` of any
        rank is true a checkpoint is written and training goes on.
        """
        trainer, every = self.trainer, self.execution.rolling_steps
        while trainer.step < self.until:
            flags = (STOP if stopped() else 0) | (ASKED if saves() else 0)
            flags |= SAVE if self.ranks.first and self._due() else 0
            self.ranks.at(f"step {trainer.step + 1}")
            line, flags = trainer.train_step(flags)
            line = line.linked(trainer.link)
            trainer.link = line.link
            self.lines.append(line)
            seen(line)
            if line.step == self.until:
                break
            major = self.rolling.major
            if flags & (STOP | SAVE | ASKED) or any(n and line.step % n == 0 for n in (every, major)):
                self.save_rolling()
            if flags & ASKED and self.ranks.first:
                self.say(f"\nsaved after step {line.step}, as asked: {self.rolling.path(line.step)}")
            if flags & STOP:
                return False
        return True

    def finish(self, out: Path, chain_path: Path) -> str:
        """Write the segment's checkpoint and chain; returns the checkpoint's SHA-256, "" at other ranks than the
        first."""
        self.ranks.at("saving")
        digest = self.trainer.save(out)
        if self.ranks.first:
            chain.write(chain_path, self.lines)
            self.rolling.clear()
        return digest
