"""Every rank's gradient to the owners of its shards, range by range, while the backward pass still runs.

A range of the flat parameter space can travel as soon as the last lane's subtree for it is complete: nothing writes there
again, so when it travels cannot change a bit. All ranks send the same ranges in the same order, from the last parameter down.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.machine.memory import Memory
from pipeline.machine.ranks import Moving, Ranks
from pipeline.training.lanes import tree_over_rows

RANGE = 2**20  # scalars that a message should have at least


class Exchange:
    """Shards of `size` scalars. What arrives for k scalars of the shard is one block [ranks, k]."""

    def __init__(self, ranks: Ranks, size: int, memory: Memory) -> None:
        self.ranks, self.size = ranks, size
        self._received = memory.zeros(ranks.size * size)
        self._moving: list[tuple[Moving, Tensor, int]] = []
        self._below = ranks.size * size  # everything from here on is on its way

    def pending(self, begin: int) -> tuple[int, int] | None:
        """The range from `begin` to what was sent last, if it is worth a message or completes the gradient."""
        return (begin, self._below) if begin < self._below and (begin == 0 or self._below - begin >= RANGE) else None

    def start(self, gradient: Tensor, begin: int, end: int) -> None:
        """Send begin .. end - 1 of this rank's gradient [ranks * size]; end is where the range before began."""

        def overlap(rank: int) -> tuple[int, int]:
            a, b = max(begin, rank * self.size), min(end, (rank + 1) * self.size)
            return a - rank * self.size, max(a, b) - rank * self.size

        counts = [b - a for a, b in map(overlap, range(self.ranks.size))]
        first, last = overlap(self.ranks.rank)
        block = self._received[first * self.ranks.size : last * self.ranks.size] if first < last else self._received[:0]
        block = block.view(self.ranks.size, max(0, last - first))
        self._moving.append((self.ranks.exchange(block, gradient[begin:end], counts), block, first))
        self._below = begin

    def finish(self, shard: Tensor) -> Tensor:
        """Wait for everything, then add over ranks by the pairwise tree into shard [size], which may lie in the gradient."""
        for moving, _, _ in self._moving:
            moving.wait()
        for _, block, first in self._moving:
            if block.shape[1]:
                tree_over_rows(block, shard[first : first + block.shape[1]])
        self._moving.clear()
        self._below = self.ranks.size * self.size
        return shard
