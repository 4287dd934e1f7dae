"""How a machine runs a recipe: ranks, micro-batch, recompute, device, threads. None of it may change a bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from cuda_ops.bounds import MOST_THREADS
from cuda_ops.errors import UserError
from pipeline.machine.devices import names
from pipeline.machine.place import cores, parse_rendezvous, place_of
from pipeline.recipe import Recipe

FLAGS = "execution (never changes a bit)"  # their group in a command's help


def _flag(default: object, said: str, **options: object) -> Any:
    """A field with its flag; options: of add_argument, beside the help."""
    return field(default=default, metadata={"type": type(default), "default": default, "help": said} | options)


@dataclass(frozen=True)
class Execution:
    """rolling: seconds between rolling checkpoints; rolling_steps: steps between them, if not 0. graph: see graphs.py.

    keep: how many rolling checkpoints stay; major: those at its multiples stay for good, 0: none.

    price: dollars per device and hour, for the receipt; 0: not given.
    """

    ranks: int = _flag(1, "processes, of all machines together")
    nodes: int = _flag(1, "machines; the same command is started on each")
    rendezvous: str = _flag("", "of the first machine, with --nodes", metavar="HOST:PORT")
    micro_batch: int = _flag(4, "sequences per forward and backward")
    recompute: bool = _flag(False, "1: less memory, more time", type=int, choices=(0, 1))
    device: str = _flag("cpu", "cpu or cuda; one per rank, as in cuda,cpu")
    threads: int = _flag(0, "threads of a machine's ranks together (default: all)")
    rolling: float = _flag(30.0, "seconds between rolling checkpoints")
    rolling_steps: int = _flag(0, "steps between them instead")
    keep: int = _flag(2, "rolling checkpoints that stay, the newest")
    major: int = _flag(0, "those at multiples of so many steps stay for good")
    price: float = _flag(0.0, "dollars per device and hour, for the receipt")
    graph: bool = _flag(True, "0: no CUDA graph of the step", type=int, choices=(0, 1))

    @classmethod
    def flags(cls) -> dict[str, dict[str, Any]]:
        """The flag of each field, and what add_argument is told of it; parsing them is the command's."""
        return {f"--{each.name.replace('_', '-')}": dict(each.metadata) for each in fields(cls)}

    @classmethod
    def from_flags(cls, given: Mapping[str, Any]) -> Execution:
        """given: the parsed flags by name, others among them."""
        found = {each.name: given[each.name] for each in fields(cls)}
        return cls(**found | {"recompute": bool(given["recompute"]), "graph": bool(given["graph"])})

    @property
    def threads_per_rank(self) -> int:
        """A machine's cores, or --threads, shared out among its own ranks."""
        place = place_of(self.ranks, self.nodes) if self.ranks > 1 else None
        local = place.local_size if place else self.ranks // max(1, self.nodes)
        return max(1, (self.threads or cores()) // max(1, local))

    def check_nodes(self) -> None:
        """Refuse machines that the ranks cannot be dealt to, and a meeting place that is none."""
        if self.nodes < 1 or self.ranks % self.nodes:
            raise UserError(
                f"--nodes {self.nodes} does not divide --ranks {self.ranks}: every machine runs equally many"
            )
        if self.nodes > 1:
            parse_rendezvous(self.rendezvous)
        elif self.rendezvous:
            raise UserError(f"--rendezvous {self.rendezvous} is for --nodes 2 or more; on one machine leave it out")

    def check(self, recipe: Recipe) -> None:
        """Refuse, before anything runs, what this recipe cannot be run with."""
        lanes = recipe.bits.batch.lanes
        if self.ranks < 1 or lanes % self.ranks:
            allowed = [n for n in range(1, lanes + 1) if lanes % n == 0]
            raise UserError(f"--ranks {self.ranks} does not divide the recipe's {lanes} lanes; allowed are {allowed}")
        self.check_nodes()
        for name, value in (("--micro-batch", self.micro_batch), ("--rolling", self.rolling)):
            if not 0 < value < math.inf:
                raise UserError(f"{name} {value}: expected more than 0")
        if self.keep < 1 or self.major < 0 or not 0 <= self.price < math.inf:
            raise UserError(
                f"--keep {self.keep}, --major {self.major}, --price {self.price}: expected at least 1, 0 and 0"
            )
        if not 0 <= self.threads <= MOST_THREADS or self.rolling_steps < 0:
            raise UserError(
                f"--threads {self.threads}, --rolling-steps {self.rolling_steps}: expected 0 or more, threads up to "
                f"{MOST_THREADS}"
            )
        if len(names(self.device)) not in (1, self.ranks):
            raise UserError(
                f"--device {self.device} names {len(names(self.device))} devices for --ranks {self.ranks}: give one, or one each"
            )
