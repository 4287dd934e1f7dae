"""A segment of a run: the steps up to a checkpoint, with rolling checkpoints on the way and the chain of its lines.

Killed at any instant and begun again, on any number of ranks, it goes on from the newest rolling checkpoint and ends
with the same bits. It prints nothing: `say` gets what a user should read, `seen` each line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.checkpoint import Rolling, Stored, load
from pipeline.base.files import Growing
from pipeline.machine.execution import Execution
from pipeline.training.trainer import Trainer

# Signal bits that the ranks share after each step; ASKED: to save, by a signal; FULL: no line can be written any more.
STOP, SAVE, ASKED, FULL = 1, 2, 4, 8
SHARE = 20  # rolling checkpoints take at most about one part in so many of the time


class Segment:
    """A segment under way: the trainer, its chain so far, and the rolling checkpoints in `state`.

    previous: the checkpoint that it goes on from; None: the initial weights, of the file `init` if the recipe reads
    one. chain_path: the chain to write, line by line beside its place, so that a full disk is found at its step.
    """

    def __init__(
        self, trainer: Trainer, execution: Execution, until: int, state: Path, say: Callable[[str], None], *,
        previous: Path | None = None, init: Path | None = None, chain_path: Path | None = None,
    ) -> None:  # fmt: skip
        self.trainer, self.execution, self.until, self.say = trainer, execution, until, say
        self.ranks, self.rolling = trainer.ranks, Rolling(state, execution.keep, execution.major)
        self.lines: list[chain.Line] = []
        self.chain_path = chain_path if self.ranks.first else None
        self._growing: Growing | None = None
        self._refusal: UserError | None = None  # what the chain's disk has said
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
            self._refused(Growing.sync)  # some disks say only then that they are full
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
        done = False
        try:
            if self.chain_path:
                self._growing = Growing(self.chain_path)
                self._growing.write(chain.whole(self.lines))
            done = self._steps(stopped, seen, saves)
        finally:
            if self._growing and not done:
                self._growing.discard()
        return done

    def _steps(
        self, stopped: Callable[[], bool], seen: Callable[[chain.Line], None], saves: Callable[[], bool]
    ) -> bool:
        trainer, every = self.trainer, self.execution.rolling_steps
        while trainer.step < self.until:
            flags = (STOP if stopped() else 0) | (ASKED if saves() else 0)
            flags |= SAVE if self.ranks.first and self._due() else 0
            flags |= FULL if self._refusal else 0
            self.ranks.at(f"step {trainer.step + 1}")
            line, flags = trainer.train_step(flags)
            line = line.linked(trainer.link)
            trainer.link = line.link
            self.lines.append(line)
            self._refused(partial(Growing.write, content=chain.row(line)))
            seen(line)
            if flags & FULL:
                self._give_up()
            if line.step == self.until:
                break
            major = self.rolling.major
            if flags & (STOP | SAVE | ASKED) or any(n and line.step % n == 0 for n in (every, major)):
                self.save_rolling()
            if flags & ASKED and self.ranks.first:
                self.say(f"\nsaved after step {line.step}, as asked: {self.rolling.path(line.step)}")
            if flags & STOP:
                return False
        if self.ranks.agree(int(self._refused(Growing.sync))):
            self._give_up()
        return True

    def _refused(self, act: Callable[[Growing], None]) -> bool:
        """Do something with the growing chain, as long as its disk has refused nothing; whether it has."""
        if self._growing and not self._refusal:
            try:
                act(self._growing)
            except UserError as error:
                self._refusal = error
        return bool(self._refusal)

    def _give_up(self) -> NoReturn:
        """The disk of the chain is full: save what is reached, at every rank, and say so at the first."""
        self.save_rolling()
        if not self._refusal:
            self.ranks.end_after_the_first()
        raise UserError(
            f"{self._refusal}: step {self.trainer.step} is saved in {self.rolling.folder}, and the same command goes on from it"
        )

    def finish(self, out: Path) -> str:
        """Write the segment's checkpoint and put its chain in its place; returns the checkpoint's SHA-256, "" at other
        ranks than the first."""
        self.ranks.at("saving")
        try:
            digest = self.trainer.save(out)
            if self._growing:
                self._growing.publish()
        finally:
            if self._growing:
                self._growing.discard()
        return digest

    def clear(self) -> None:
        """Remove the rolling checkpoints: all that the segment was to write is there."""
        if self.ranks.first:
            self.rolling.clear()
