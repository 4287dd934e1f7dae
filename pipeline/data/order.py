"""Which of the items of a training split sample number n of a run is: in order, each once per epoch by Philox, or as llm.c.

Nothing here reads a token: an order is a function of counts and a seed. llm.c's two levels (llmc/dataloader.h, llmc/rand.h): shards are
shuffled, and of each, when its turn comes, the batches, by a Mersenne twister of the process' own, seeded by 42 + its rank. What a
process is there a lane is here, and 42 is bits.seed, so that the samples do not depend on how many processes run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.philox import Philox, Stream

BLOCK = 1 << 16  # keys computed at a time


def keys_of(philox: Philox, first: int, count: int) -> NDArray[np.uint64]:
    """One 64-bit word for each of `count` items."""
    words = philox.words(2 * first, 2 * count)
    return words[0::2] | words[1::2] << np.uint64(32)


def permutation(count: int, epoch: int, philox: Philox) -> NDArray[np.unsignedinteger]:
    """The order of an epoch: items sorted by one 64-bit word each; ties, if ever, by item.

    Takes 8 bytes per item while it sorts, and 4 (8 from 2^32 items on) for what it returns: the high bits of a word and the item's
    number are sorted as one, in place, and where the high bits are equal the whole words decide.
    """
    bits = max((count - 1).bit_length(), 1)
    low = np.uint64((1 << bits) - 1)
    order = np.empty(count, dtype=np.uint64)
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        items = np.arange(begin, begin + size, dtype=np.uint64)
        order[begin : begin + size] = keys_of(philox, epoch * count + begin, size) & ~low | items
    order.sort()
    _settle(order, bits, epoch * count, philox)
    if count > 2**32:
        order &= low
        return order
    # In place too: item i of 4 bytes never lies behind item i of 8.
    narrow = order.view(np.uint32)
    for begin in range(0, count, BLOCK):
        narrow[begin : begin + BLOCK][: count - begin] = (order[begin : begin + BLOCK] & low).astype(np.uint32)
    del narrow
    order.resize((count + 1) // 2, refcheck=False)
    return order.view(np.uint32)[:count]


def _settle(order: NDArray[np.uint64], bits: int, first: int, philox: Philox) -> None:
    """Put what is equal in its high bits into the order of the whole words."""
    shift = np.uint64(bits)
    at = 0
    ties: list[int] = []  # places whose high bits are those of the place before
    for begin in range(0, len(order), BLOCK):
        high = order[begin : begin + BLOCK + 1] >> shift
        ties += (begin + 1 + np.flatnonzero(high[1:] == high[:-1])).tolist()
    while at < len(ties):
        begin = ties[at] - 1
        end = ties[at]
        while at < len(ties) and ties[at] == end:
            end, at = end + 1, at + 1
        items = (order[begin:end] & np.uint64((1 << bits) - 1)).tolist()
        words = np.array([philox.word64(first + item) for item in items], dtype=np.uint64)
        order[begin:end] = order[begin:end][np.lexsort((items, words))]


class Order:
    """Items of `count`, epoch after epoch; the permutation of one epoch is held at a time."""

    def __init__(self, count: int, shuffled: bool, seed: int) -> None:
        self.count, self.shuffled = count, shuffled
        self._philox = Philox(seed, Stream.ORDER)
        self._epoch = -1
        self._permutation: NDArray[np.unsignedinteger] = np.zeros(0, dtype=np.uint32)

    def item(self, sample: int) -> int:
        """The item that a sample of the run is; samples count from 0."""
        epoch, position = divmod(sample, self.count)
        if not self.shuffled:
            return position
        if epoch != self._epoch:
            self._permutation = np.zeros(0, dtype=np.uint32)  # the old one goes before the new one comes
            self._permutation, self._epoch = permutation(self.count, epoch, self._philox), epoch
        return int(self._permutation[position])


class Twister:
    """llm.c's random_permutation by its Mersenne twister, which is PyTorch's and numpy's legacy one."""

    def __init__(self, seed: int) -> None:
        legacy: Any = np.random.RandomState(seed).get_state(legacy=True)
        self._bits = np.random.MT19937()
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": legacy[1], "pos": legacy[2]}}

    def shuffle(self, items: NDArray[np.int64]) -> None:
        """Fisher and Yates, from the end: each item changes places with one of those up to it, by a word modulo their number."""
        at = np.arange(len(items) - 1, 0, -1)
        row = items.tolist()
        for i, j in zip(
            at.tolist(), (self._bits.random_raw(len(at)).astype(np.int64) % (at + 1)).tolist(), strict=True
        ):
            row[i], row[j] = row[j], row[i]
        items[:] = row

    def skip(self, count: int) -> None:
        """What a shuffle of so many items draws."""
        self._bits.random_raw(max(count - 1, 0))


class ShardOrder:
    """llm.c's order of one lane: batches[k] batches in shard k, each shard's in its own order, shards shuffled every epoch.

    The state is that of an epoch and the shard at hand, so steps in order cost nothing and a jump redraws from the beginning.
    """

    def __init__(self, batches: Sequence[int], seed: int) -> None:
        self.batches, self.seed = np.array(batches, dtype=np.int64), seed
        self.per_epoch = int(self.batches.sum())
        self._restart()

    def _restart(self) -> None:
        self._twister = Twister(self.seed)
        self._shards = np.arange(len(self.batches))
        self._epoch = -1
        self._next_epoch()

    def _next_epoch(self) -> None:
        self._epoch += 1
        self._twister.shuffle(self._shards)
        self._ends = np.cumsum(self.batches[self._shards])
        self._place = -1

    def batch(self, step: int) -> tuple[int, int]:
        """Shard and batch within it that the lane reads at a step, from 0."""
        epoch, position = divmod(step, self.per_epoch)
        place = int(np.searchsorted(self._ends, position, side="right")) if epoch == self._epoch else -1
        if epoch < self._epoch or (epoch == self._epoch and place < self._place):
            self._restart()
        while self._epoch < epoch:
            for shard in self._shards[self._place + 1 :]:
                self._twister.skip(int(self.batches[shard]))
            self._next_epoch()
        place = int(np.searchsorted(self._ends, position, side="right"))
        while self._place < place:
            self._place += 1
            count = int(self.batches[self._shards[self._place]])
            if self._place < place:
                self._twister.skip(count)
            else:
                self._within = np.arange(count)
                self._twister.shuffle(self._within)
        shard = int(self._shards[place])
        first = int(self._ends[place]) - int(self.batches[shard])
        return shard, int(self._within[position - first])
