"""How a machine runs a recipe: ranks, micro-batch, recompute, device, threads. None of it may change a bit."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields

from cuda_ops.bounds import MOST_THREADS
from cuda_ops.errors import UserError
from pipeline.machine.devices import names
from pipeline.machine.place import cores, parse_rendezvous, place_of
from pipeline.recipe import Recipe


@dataclass(frozen=True)
class Execution:
    """rolling: seconds between rolling checkpoints; rolling_steps: steps between them, if not 0. graph: see graphs.py.

    keep: how many rolling checkpoints stay; major: those at its multiples stay for good, 0: none.

    price: dollars per device and hour, for the receipt; 0: not given.
    """

    ranks: int = 1
    micro_batch: int = 4
    recompute: bool = False
    device: str = "cpu"
    threads: int = 0
    rolling: float = 30.0
    rolling_steps: int = 0
    keep: int = 2
    major: int = 0
    graph: bool = True
    nodes: int = 1
    rendezvous: str = ""
    price: float = 0.0

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("execution (never changes a bit)")
        group.add_argument("--ranks", type=int, default=1, help="processes, of all machines together")
        group.add_argument("--nodes", type=int, default=1, help="machines; the same command is started on each")
        group.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="of the first machine, with --nodes")
        group.add_argument("--micro-batch", type=int, default=4, help="sequences per forward and backward")
        group.add_argument("--recompute", type=int, choices=(0, 1), default=0, help="1: less memory, more time")
        group.add_argument("--device", default="cpu", help="cpu or cuda; one per rank, as in cuda,cpu")
        group.add_argument(
            "--threads", type=int, default=0, help="threads of a machine's ranks together (default: all)"
        )
        group.add_argument("--rolling", type=float, default=30.0, help="seconds between rolling checkpoints")
        group.add_argument("--rolling-steps", type=int, default=0, help="steps between them instead")
        group.add_argument("--keep", type=int, default=2, help="rolling checkpoints that stay, the newest")
        group.add_argument("--major", type=int, default=0, help="those at multiples of so many steps stay for good")
        group.add_argument("--price", type=float, default=0.0, help="dollars per device and hour, for the receipt")
        group.add_argument("--graph", type=int, choices=(0, 1), default=1, help="0: no CUDA graph of the step")

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> Execution:
        given = vars(args)
        found = {field.name: given[field.name] for field in fields(cls)}
        return cls(**found | {"recompute": bool(args.recompute), "graph": bool(args.graph)})

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
