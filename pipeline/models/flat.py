"""The flat parameter space: every parameter one after another, in canonical order.

Gradients, optimizer state, shards of ranks, the norm's chunks and the fingerprint's positions all lie in it. It stands
here, below training/, because a model's weights are views of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np
from torch import Tensor

Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Parameter:
    """A row of a model's table. decay: whether weight decay acts on it. rate: factor of the learning rate."""

    shape: Shape
    decay: bool = False
    rate: float = 1.0

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Piece:
    """begin .. end - 1 of the flat space, at `at` of its owner's shard."""

    begin: int
    end: int
    at: int


class Shards:
    """The flat space dealt to ranks: of each range every rank owns an equal part, the first rank the first.

    So all receive at the same time while ranges of the gradient travel. Who owns an element is seen by no bit. length:
    of a range, about; a part is a multiple of `unit`, and so is size / ranks. A rank's shard is its parts one after
    another.
    """

    def __init__(self, size: int, ranks: int, unit: int, length: int) -> None:
        self.size, self.ranks = size // ranks, ranks
        step = max(1, length // (ranks * unit)) * ranks * unit if ranks > 1 else size
        self.ranges = [(begin, min(begin + step, size)) for begin in range(0, size, step)]

    def pieces(self, rank: int) -> list[Piece]:
        """What a rank owns, in ascending order."""
        found = []
        for begin, end in self.ranges:
            each = (end - begin) // self.ranks
            found.append(Piece(begin + rank * each, begin + (rank + 1) * each, begin // self.ranks))
        return found

    def in_order(self, out: Tensor, rows: Tensor) -> None:
        """out [n] in flat order from the ranks' shards in rows [ranks, n / ranks]; n: the size, or its chunks."""
        scale = self.size * self.ranks // out.numel()
        for begin, end in self.ranges:
            a, b = begin // scale, end // scale
            out[a:b].view(self.ranks, -1).copy_(rows[:, a // self.ranks : b // self.ranks])


class Flat:
    """Names, offsets and views of a table. Zeros fill it up to a multiple of `multiple` scalars."""

    def __init__(self, table: Mapping[str, Parameter], multiple: int = 1) -> None:
        self.table = dict(table)
        self.shapes = {name: parameter.shape for name, parameter in table.items()}
        ends = list(accumulate((parameter.size for parameter in table.values()), initial=0))
        self.offsets = dict(zip(self.table, ends, strict=False))
        self.used = ends[-1]  # scalars that are parameters
        self.size = -(-self.used // multiple) * multiple
        self._views: dict[int, dict[str, Tensor]] = {}

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a buffer [size] by parameter name, in canonical order. Those of one buffer are made once."""
        found = self._views.get(flat.data_ptr())
        if found is None:
            found = {
                name: flat[at : at + self.table[name].size].view(self.shapes[name]) for name, at in self.offsets.items()
            }
            self._views[flat.data_ptr()] = found
        return found

    def part(self, name: str, begin: int, end: int) -> tuple[int, int]:
        """Which elements of a parameter lie in begin .. end - 1 of the space; an empty range where none do."""
        at, size = self.offsets[name], self.table[name].size
        first = min(max(begin - at, 0), size)
        return first, min(max(end - at, first), size)

    def ranges(self, begin: int, end: int, key: Callable[[Parameter], T]) -> list[tuple[int, int, T]]:
        """begin .. end - 1 as ranges (from begin on) of one key each; what fills the space up has a plain
        Parameter's."""
        found: list[tuple[int, int, T]] = []
        filling = Parameter((self.size - self.used,))
        for at, parameter in [*zip(self.offsets.values(), self.table.values(), strict=True), (self.used, filling)]:
            a, b, value = max(at, begin) - begin, min(at + parameter.size, end) - begin, key(parameter)
            if a < b and found and found[-1][2] == value:
                found[-1] = (found[-1][0], b, value)
            elif a < b:
                found.append((a, b, value))
        return found

    def located(self, position: int) -> tuple[str, Shape]:
        """The parameter and index at a position."""
        for name, at in self.offsets.items():
            if at <= position < at + self.table[name].size:
                return name, tuple(int(i) for i in np.unravel_index(position - at, self.shapes[name]))
        raise AssertionError(f"position {position} lies outside the parameters")
