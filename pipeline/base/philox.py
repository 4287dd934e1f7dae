"""Philox4x32-10: random numbers as pure functions of (seed, stream, index).

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11, section 4.3. The same counter layout as
cuda_ops/numerics/philox.h: counter (block low, block high, stream, 0), key (seed low, seed high), word i of a stream
is word i mod 4 of block i / 4.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What a random number is for. One stream per use, so that no two uses ever share numbers."""

    INIT = 1
    ORDER = 2
    SAMPLE = 3
    CORPUS = 4
    QUESTIONS = 5
    PATTERNS = 6
    IMAGES = 7


_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Ten rounds over counters [n, 4] of 32-bit words held in uint64; returns [n, 4]."""
    c0, c1, c2, c3 = (counter[:, i].copy() for i in range(4))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


class Philox:
    """The words of one stream of one seed, by index."""

    def __init__(self, seed: int, stream: Stream) -> None:
        self.key = (seed & 0xFFFFFFFF, seed >> 32)
        self.stream = int(stream)

    def words(self, first: int, count: int) -> NDArray[np.uint64]:
        """Words first .. first + count - 1, each below 2^32."""
        begin, end = first // 4, (first + count + 3) // 4
        blocks = np.arange(begin, end, dtype=np.uint64)
        counter = np.zeros((len(blocks), 4), dtype=np.uint64)
        counter[:, 0], counter[:, 1], counter[:, 2] = blocks & _LOW, blocks >> _SHIFT, self.stream
        words = philox4x32(counter, self.key).reshape(-1)
        return words[first - 4 * begin :][:count]

    def word64(self, index: int) -> int:
        """Words 2 index (low) and 2 index + 1 (high) as one 64-bit integer."""
        low, high = (int(w) for w in self.words(2 * index, 2))
        return low | high << 32

    def below(self, limit: int, index: int) -> int:
        """An integer in [0, limit) from word64(index) by multiply-high; the bias is at most limit / 2^64."""
        return self.word64(index) * limit >> 64
