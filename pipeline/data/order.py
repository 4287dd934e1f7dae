"""Which of the items of a training split sample number n of a run is: in order, or each once per epoch by Philox."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.base.philox import Philox, Stream

BLOCK = 1 << 16  # keys computed at a time


def permutation(count: int, epoch: int, philox: Philox) -> NDArray[np.unsignedinteger]:
    """The order of an epoch: items sorted by one 64-bit word each; ties, if ever, by item.

    Takes 20 bytes per item while it sorts, and 4 (8 from 2^32 items on) for what it returns.
    """
    keys = np.empty(count, dtype=np.uint64)
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        words = philox.words(2 * (epoch * count + begin), 2 * size)
        keys[begin : begin + size] = words[0::2] | words[1::2] << np.uint64(32)
    order = np.argsort(keys, kind="stable")
    del keys
    return order.astype(np.uint32 if count <= 2**32 else np.uint64)


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
            self._permutation, self._epoch = permutation(self.count, epoch, self._philox), epoch
        return int(self._permutation[position])
