"""Every rank's gradient to the owners of its shards, range by range, while the backward pass still runs.

A range of the flat parameter space can travel as soon as the last lane's subtree for it is complete: nothing writes there
again, so when it travels cannot change a bit. All ranks send the same ranges in the same order, from the last parameter down.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.machine.memory import Memory
from pipeline.machine.ranks import Moving, Ranks
from pipeline.models.flat import Shards
from pipeline.training.lanes import tree_over_rows

RANGE, LEAST = 2**22, 8  # scalars of a range at most, about; ranges at least, so that most of them travel early


def shards_of(size: int, ranks: int, unit: int) -> Shards:
    """How a flat space of `size` scalars is dealt; unit: of which a part is a multiple."""
    return Shards(size, ranks, unit, min(RANGE, size // LEAST))


class Exchange:
    """Gradients to the owners, parameters to all. What arrives for a part of k scalars is one block [ranks, k]."""

    def __init__(self, ranks: Ranks, shards: Shards, memory: Memory) -> None:
        self.ranks, self.shards = ranks, shards
        self._received = memory.zeros(ranks.size * shards.size)
        self._moving: list[tuple[Moving, Tensor, int]] = []
        self._waiting = list(shards.ranges)  # the last is sent first

    def pending(self, begin: int) -> tuple[int, int] | None:
        """The whole ranges from `begin` on that were not sent yet, as one."""
        first = next((at for at, _ in self._waiting if at >= begin), None)
        return None if first is None else (first, self._waiting[-1][1])

    def start(self, gradient: Tensor, begin: int, end: int) -> None:
        """Send what pending() gave of this rank's gradient [ranks * size]."""
        while self._waiting and self._waiting[-1][0] >= begin:
            a, b = self._waiting.pop()
            block = self._received[a:b].view(self.ranks.size, -1)
            counts = [block.shape[1]] * self.ranks.size
            self._moving.append((self.ranks.exchange(block, gradient[a:b], counts), block, a // self.ranks.size))

    def finish(self, shard: Tensor) -> Tensor:
        """Wait for everything, then add over ranks by the pairwise tree into shard [size], which may lie in the gradient."""
        for moving, _, _ in self._moving:
            moving.wait()
        for _, block, at in self._moving:
            tree_over_rows(block, shard[at : at + block.shape[1]])
        self._moving.clear()
        self._waiting = list(self.shards.ranges)
        return shard

    def gather(self, parameters: Tensor) -> None:
        """Every rank's part of the flat parameters to all, by way of the buffer that gradients arrive in."""
        rows = self._received.view(self.ranks.size, -1)
        mine = rows[self.ranks.rank]
        for piece in self.shards.pieces(self.ranks.rank):
            mine[piece.at : piece.at + piece.end - piece.begin].copy_(parameters[piece.begin : piece.end])
        self.ranks.gather(rows, mine)
        self.shards.in_order(parameters, rows)
