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


class LaneCounter:
    """Adds the gradients of `count` = 2^m consecutive lanes in m + 1 buffers; the next lane after them begins anew."""

    def __init__(self, count: int, new_buffer: Callable[[], Tensor]) -> None:
        self._count, self._lanes = count, 0  # lanes in all, lanes handed in
        self._buffers = [new_buffer() for _ in range(count.bit_length())]
        self._waiting: list[Tensor] = []  # subtrees, one per one bit of _lanes, the largest first

    def fresh(self) -> Tensor:
        """A zeroed buffer for the next lane; the total of the lanes before them is no longer there."""
        if self._lanes == self._count:
            self._lanes = 0
            self._waiting.clear()
        buffer = next(b for b in self._buffers if all(b is not waiting for waiting in self._waiting))
        return buffer.zero_()

    def push(self, gradient: Tensor, begin: int, end: int) -> Tensor:
        """Hand in elements begin .. end - 1 of the next lane's gradient; returns the buffer where their sum is now.

        A lane may come in parts, from the last to the one that begins at 0, which completes it. Subtrees of equal size
        are joined, left + right, as a binary counter carries. After the last lane the sum is that of all.
        """
        carries = _trailing_ones(self._lanes)
        total = gradient
        for left in self._waiting[::-1][:carries]:
            ops.residual_forward(left[begin:end], left[begin:end], total[begin:end])
            total = left
        if begin == 0:
            self._waiting[len(self._waiting) - carries :] = [total]
            self._lanes += 1
        return total


def _trailing_ones(n: int) -> int:
    return (~n & (n + 1)).bit_length() - 1


def tree_over_rows(rows: Tensor, out: Tensor | None = None) -> Tensor:
    """Pairwise tree over the rows of [2^k, n] into out [n] (default: row 0), which is returned; the rows are used
    up."""
    count, out = rows.shape[0], rows[0] if out is None else out
    if count == 1:
        return out.copy_(rows[0])
    stride = 1
    while stride < count // 2:
        for i in range(0, count, 2 * stride):
            ops.residual_forward(rows[i], rows[i], rows[i + stride])
        stride *= 2
    ops.residual_forward(out, rows[0], rows[stride])
    return out
