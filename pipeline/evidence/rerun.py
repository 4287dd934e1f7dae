"""One step of a run again, from the nearest checkpoint before it: what replay, compare and the page of spikes rest
on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.data.progress import counted
from pipeline.recipe import Recipe, recipe_id
from pipeline.recipe.paths import DIGESTS
from pipeline.records.digests import checkpoint_digest, digests_in
from pipeline.records.present import present

if TYPE_CHECKING:
    from pipeline.models.model import Observer
    from pipeline.training.trainer import Trainer


def checkpoints_of(folder: Path, recipe: Recipe | None = None) -> dict[int, Path]:
    """The checkpoints of a run folder or a folder of rolling ones, by step."""
    return present(folder, recipe).paths("tensors")


def lines_of(folder: Path, recipe: Recipe | None = None) -> dict[int, chain.Line]:
    """The chain of a folder by step: its pieces one after another; rolling ones overlap."""
    return {line.step: line for path in present(folder, recipe).paths("chain").values() for line in chain.read(path)}


def altered(start: Path, run: Path) -> str:
    """In words that a checkpoint of a run is not the one that the run's digests.json has, if it is so."""
    known = digests_in(run / DIGESTS).get(f"train/{start.name}")
    found = checkpoint_digest(start)
    if known in (None, found):
        return ""
    return f"{start}: not the one of {run / DIGESTS}, which has {str(known)[:12]}, this is {found[:12]}: altered since"


class Rerun:
    """A trainer that stands just before a step.

    known: the recorded chain, if there is one; the steps on the way are held against it. steps_on_the_way: how many it
    took, each told on stderr as counted() tells it. device: cpu or cuda. init: the file of the initial weights, where bits.init reads one.
    """

    def __init__(
        self, recipe: Recipe, tokens: Path, step: int, checkpoints: dict[int, Path], *,
        micro_batch: int = 4, known: dict[int, chain.Line] | None = None, device: str = "cpu", init: Path | None = None,
    ) -> None:  # fmt: skip
        from pipeline.base.checkpoint import load
        from pipeline.machine.devices import check_device
        from pipeline.machine.execution import Execution
        from pipeline.machine.ranks import Ranks
        from pipeline.training.trainer import Trainer

        if not recipe.bits.start < step <= recipe.bits.steps:
            raise UserError(f"--step {step}: expected {recipe.bits.start + 1} to {recipe.bits.steps}")
        check_device(recipe.bits, device)
        execution = Execution(micro_batch=micro_batch, device=device, graph=False)  # an observer sees each call
        self.trainer: Trainer = Trainer(recipe, execution, Ranks(device), tokens)
        self.known = known or {}
        self.origin: Path | None = None
        self.parted: tuple[chain.Line, chain.Line] | None = (
            None  # the first step on the way that is not the recorded one
        )
        before = [k for k in checkpoints if k < step]
        if before:
            self.origin = checkpoints[max(before)]
            self.trainer.restore(load(self.origin))
        else:
            self.trainer.initialise(init)
        self.steps_on_the_way = step - 1 - self.trainer.step
        way = f"from {self.origin or 'the initial weights'} to step {step}, steps on the way"
        for _ in counted(self.steps_on_the_way, way) if self.steps_on_the_way else ():
            self.advance()

    def advance(self, observe: Observer | None = None) -> chain.Line:
        """The next step, linked; an observer sees its tensors, and the state before it."""
        trainer = self.trainer
        if observe:
            self._see_state(observe)
        trainer.observe = observe
        line, _ = trainer.train_step()
        trainer.observe = None
        line = line.linked(trainer.link)
        trainer.link = line.link
        recorded = self.known.get(line.step)
        if recorded and self.parted is None and recorded.content() != line.content():
            self.parted = (line, recorded)
        return line

    def lane(self, lane: int, observe: Observer) -> float:
        """One lane of the next step; returns the sum of its losses. The state does not move."""
        lanes = self.trainer.recipe.bits.batch.lanes
        if not 0 <= lane < lanes:
            raise UserError(f"--lane {lane}: the recipe has lanes 0 to {lanes - 1}")
        self._see_state(observe)
        self.trainer.observe = observe
        total = self.trainer.one_lane(lane)
        self.trainer.observe = None
        return total

    def _see_state(self, observe: Observer) -> None:
        for prefix, flat in self.trainer.flats().items():
            for name, view in self.trainer.model.flat.views(flat).items():
                observe(f"before/{prefix}{name}", view)

    def about(self) -> dict[str, Any]:
        """What a trace says of this side; inputs: the names of what a lane reads."""
        from cuda_ops import runtime
        from pipeline.records.code_digest import code_digest

        return {
            "recipe_id": recipe_id(self.trainer.recipe),
            "inputs": list(self.trainer.feed.lanes[0]),
            "origin": self.origin.name if self.origin else "initial weights",
            "sources": runtime.source_digest(),
            "code": code_digest("pipeline.training.trainer"),
        }
