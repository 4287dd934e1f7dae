"""Ranks under torchrun. Collectives move bytes; none of them ever adds a float.

One process needs no torch.distributed at all, and takes the same path through the trainer.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import UserError


class Ranks:
    """This process's place among `size` ranks."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            try:
                dist.init_process_group("gloo", timeout=timedelta(seconds=600))
            except (RuntimeError, dist.DistError) as error:
                address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                raise UserError(
                    f"the ranks cannot meet at {address}: {str(error).splitlines()[0]}. If the port is in use, unset "
                    "MASTER_PORT and let torchrun --standalone choose one"
                ) from None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def exchange(self, received: Tensor, mine: Tensor) -> None:
        """All-to-all: row r of mine [size, n] goes to rank r; row r of received came from rank r."""
        if self.size == 1:
            received.copy_(mine)
        else:
            dist.all_to_all_single(received, mine)

    def gather(self, everyone: Tensor, mine: Tensor) -> None:
        """All-gather: row r of everyone [size, n] becomes what rank r gave."""
        if self.size == 1:
            everyone.view(-1).copy_(mine.view(-1))
        else:
            dist.all_gather(list(everyone.view(self.size, -1).unbind()), mine.view(-1))

    def gather_flat(self, flat: Tensor) -> None:
        """All-gather in place: each rank's own equal part of flat goes to all."""
        if self.size > 1:
            parts = list(flat.view(self.size, -1).unbind())
            dist.all_gather(parts, parts[self.rank].clone())

    def agree(self, value: int) -> int:
        """Rank 0's integer, at every rank."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.int64)
        dist.broadcast(box, 0)
        return int(box.item())

    def close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def launch(ranks: int, module: str) -> None:
    """Outside torchrun, become torchrun with this command on `ranks` processes; inside, return."""
    if ranks == 1 or "RANK" in os.environ:
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--standalone", "-m", module, *sys.argv[1:]]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHELASTIC_LOG_LEVEL", "ERROR")
    sys.stdout.flush()
    os.execv(sys.executable, command)
