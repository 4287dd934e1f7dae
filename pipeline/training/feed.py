"""The inputs of a step on the device, prepared while the step before runs.

Everything that the lanes of a rank read travels in one copy from pinned memory into one buffer whose address never
changes: per lane, the inputs that the model declares, in words of four bytes. Two host buffers take turns, so that the
next step's can be written while this one's is still being read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.machine.memory import Memory
from pipeline.models.model import Input, Inputs


class Feed:
    """Inputs of `lanes` lanes. values(step, lane): those of one lane, on the host."""

    def __init__(
        self, values: Callable[[int, int], Inputs], inputs: Mapping[str, Input], lanes: int, memory: Memory
    ) -> None:
        self._values = values
        words = lanes * sum(math.prod(given.shape) for given in inputs.values())
        self._hosts = [memory.staging(words, dtype=torch.int32) for _ in range(2)]
        self._device = memory.zeros(words, dtype=torch.int32)
        self._host_lanes = [_views(host, inputs, lanes) for host in self._hosts]
        self.lanes = _views(self._device, inputs, lanes)
        self._turn = 0
        self._prepared: tuple[int, tuple[int, ...]] = (0, ())

    def prepare(self, step: int, lanes: Sequence[int]) -> None:
        """Write the inputs of these lanes of a step into the host buffer that is not in use."""
        self._turn ^= 1
        for lane, views in zip(lanes, self._host_lanes[self._turn], strict=True):
            values = self._values(step, lane)
            for name, view in views.items():
                if values[name].shape != view.shape:
                    raise AssertionError(f"{name}: {list(values[name].shape)}, expected {list(view.shape)}")
                view.copy_(values[name])
        self._prepared = (step, tuple(lanes))

    def load(self, step: int, lanes: Sequence[int]) -> None:
        """Put a step's inputs on the device; does not wait."""
        if self._prepared != (step, tuple(lanes)):
            self.prepare(step, lanes)
        self._device.copy_(self._hosts[self._turn], non_blocking=True)


def _views(words: Tensor, inputs: Mapping[str, Input], lanes: int) -> list[dict[str, Tensor]]:
    """Per lane, views of its inputs in a buffer of words."""
    found, at = [], 0
    for _ in range(lanes):
        lane = {}
        for name, given in inputs.items():
            size = math.prod(given.shape)
            lane[name] = words[at : at + size].view(given.dtype).view(given.shape)
            at += size
        found.append(lane)
    return found
