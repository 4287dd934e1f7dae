"""The sum over a batch, defined without hardware: lanes, and one aligned pairwise tree over them.

A rank owns a contiguous, aligned block of lanes and adds their gradients like a binary counter: at most one buffer per
level waits. What it hands on is the subtree of its block, so the tree over ranks completes the same tree over lanes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cuda_ops import ops


def lanes_of(rank: int, ranks: int, lanes: int) -> range:
    """The lanes that a rank owns; ranks divides lanes and both are powers of two."""
    each = lanes // ranks
    return range(rank * each, (rank + 1) * each)


def lane_of_sample(sample: int, sequences: int, lanes: int) -> int:
    """The lane of a sample of a step: contiguous blocks."""
    return sample // (sequences // lanes)


class LaneCounter:
    """Adds the gradients of `count` = 2^m consecutive lanes in m + 1 buffers."""

    def __init__(self, count: int, new_buffer: Callable[[], Tensor]) -> None:
        self._buffers = [new_buffer() for _ in range(count.bit_length())]
        self._waiting: list[tuple[int, Tensor]] = []  # (level, subtree), levels falling
        self._free = list(self._buffers)

    def fresh(self) -> Tensor:
        """A zeroed buffer for the next lane."""
        buffer = self._free.pop()
        buffer.zero_()
        return buffer

    def push(self, gradient: Tensor) -> None:
        """Hand in the gradient of the next lane; subtrees of equal size are joined, left + right."""
        level = 0
        while self._waiting and self._waiting[-1][0] == level:
            _, left = self._waiting.pop()
            ops.add(left, left, gradient)
            self._free.append(gradient)
            gradient, level = left, level + 1
        self._waiting.append((level, gradient))

    def finish(self, gradient: Tensor, begin: int, end: int) -> Tensor:
        """Join elements begin .. end - 1 of the last lane's gradient, as push would; returns the buffer they are now in.

        When every element is joined, push(gradient) must not follow: total() is the returned buffer.
        """
        part = gradient
        for _, left in reversed(self._waiting):
            ops.add(left[begin:end], left[begin:end], part[begin:end])
            part = left
        return part

    def close(self) -> None:
        """Forget the lanes; every buffer is free again."""
        self._waiting.clear()
        self._free = list(self._buffers)

    def release(self, gradient: Tensor) -> None:
        """Give a buffer from fresh() back without adding it."""
        self._free.append(gradient)

    def total(self) -> Tensor:
        """The sum of all lanes pushed; valid until the next fresh()."""
        ((_, gradient),) = self._waiting
        self.close()
        return gradient


def tree_over_rows(rows: Tensor, out: Tensor | None = None) -> Tensor:
    """Pairwise tree over the rows of [2^k, n] into out [n] (default: row 0), which is returned; the rows are used up."""
    count, out = rows.shape[0], rows[0] if out is None else out
    if count == 1:
        return out.copy_(rows[0])
    stride = 1
    while stride < count // 2:
        for i in range(0, count, 2 * stride):
            ops.add(rows[i], rows[i], rows[i + stride])
        stride *= 2
    ops.add(out, rows[0], rows[stride])
    return out
