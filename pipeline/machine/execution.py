"""How a machine runs a recipe: ranks, micro-batch, recompute, device, threads. None of it may change a bit."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

from cuda_ops.errors import UserError
from pipeline.machine.devices import names
from pipeline.recipe import Recipe


@dataclass(frozen=True)
class Execution:
    """rolling: seconds between rolling checkpoints; rolling_steps: steps between them, if not 0. graph: see graphs.py."""

    ranks: int = 1
    micro_batch: int = 4
    recompute: bool = False
    device: str = "cpu"
    threads: int = 0
    rolling: float = 30.0
    rolling_steps: int = 0
    graph: bool = True

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("execution (never changes a bit)")
        group.add_argument("--ranks", type=int, default=1, help="processes; more than 1 runs under torchrun")
        group.add_argument("--micro-batch", type=int, default=4, help="sequences per forward and backward")
        group.add_argument("--recompute", type=int, choices=(0, 1), default=0, help="1: less memory, more time")
        group.add_argument("--device", default="cpu", help="cpu or cuda; one per rank, as in cuda,cpu")
        group.add_argument("--threads", type=int, default=0, help="threads of all ranks together (default: all)")
        group.add_argument("--rolling", type=float, default=30.0, help="seconds between rolling checkpoints")
        group.add_argument("--rolling-steps", type=int, default=0, help="steps between them instead")
        group.add_argument("--graph", type=int, choices=(0, 1), default=1, help="0: no CUDA graph of the step")

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> Execution:
        return cls(
            args.ranks, args.micro_batch, bool(args.recompute), args.device, args.threads, args.rolling,
            args.rolling_steps, bool(args.graph),
        )  # fmt: skip

    @property
    def threads_per_rank(self) -> int:
        return max(1, (self.threads or os.cpu_count() or 1) // self.ranks)

    def check(self, recipe: Recipe) -> None:
        """Refuse, before anything runs, what this recipe cannot be run with."""
        lanes = recipe.bits.batch.lanes
        if self.ranks < 1 or lanes % self.ranks:
            allowed = [n for n in range(1, lanes + 1) if lanes % n == 0]
            raise UserError(f"--ranks {self.ranks} does not divide the recipe's {lanes} lanes; allowed are {allowed}")
        for name, value in (("--micro-batch", self.micro_batch), ("--rolling", self.rolling)):
            if value <= 0:
                raise UserError(f"{name} {value}: expected more than 0")
        if self.threads < 0 or self.rolling_steps < 0:
            raise UserError(f"--threads {self.threads}, --rolling-steps {self.rolling_steps}: expected 0 or more")
        if len(names(self.device)) not in (1, self.ranks):
            raise UserError(
                f"--device {self.device} names {len(names(self.device))} devices for --ranks {self.ranks}: give one, or one each"
            )
