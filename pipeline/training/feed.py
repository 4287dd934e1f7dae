"""The tokens of a step on the device, prepared while the step before runs.

Everything that a step needs from the host travels in one copy from pinned memory into one buffer whose address never changes:
three scalars for AdamW, then per lane tokens, targets, slots of the input embedding's gradient and the rows they stand for. Two host
buffers take turns, so that the next step's can be written while this one's is still being read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.windows import TextSamples as Batches
from pipeline.machine.memory import Memory
from pipeline.models.gpt import embedding_slots

SCALARS = 3  # learning rate, two bias corrections


@dataclass(frozen=True)
class LaneInput:
    """Views of one lane, int32: tokens, targets, slots [S, T], rows [R]; see models.gpt.embedding_slots."""

    tokens: Tensor
    targets: Tensor
    slots: Tensor
    rows: Tensor


class Feed:
    """Inputs of the lanes of one rank, S sequences of T tokens each."""

    def __init__(self, batches: Batches, lanes: int, sequences: int, rows: int, memory: Memory) -> None:
        self.batches, self.sequences = batches, sequences
        shape = (sequences, batches.context)
        words = SCALARS + lanes * (3 * sequences * batches.context + rows)
        pinned = memory.device.type == "cuda"
        self._hosts = [torch.zeros(words, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]
        self._device = memory.zeros(words, dtype=torch.int32)
        self._host_lanes = [self._lanes(host, lanes, shape, rows) for host in self._hosts]
        self.lanes = self._lanes(self._device, lanes, shape, rows)
        self.scalars = self._device[:SCALARS].view(torch.float32)
        self._turn = 0
        self._prepared: tuple[int, tuple[int, ...]] = (0, ())

    @staticmethod
    def _lanes(words: Tensor, lanes: int, shape: tuple[int, int], rows: int) -> list[LaneInput]:
        size, views, at = shape[0] * shape[1], [], SCALARS
        for _ in range(lanes):
            tokens, targets, slots, last = words[at : at + 3 * size + rows].split([size, size, size, rows])
            views.append(LaneInput(tokens.view(shape), targets.view(shape), slots.view(shape), last))
            at += 3 * size + rows
        return views

    def prepare(self, step: int, lanes: Sequence[int]) -> None:
        """Write the inputs of these lanes of a step into the host buffer that is not in use."""
        self._turn ^= 1
        for lane, views in zip(lanes, self._host_lanes[self._turn], strict=True):
            found = self.batches.get(step, lane * self.sequences, self.sequences)
            tokens, targets = (torch.from_numpy(found[name]) for name in ("tokens", "targets"))
            slots, rows = embedding_slots(tokens, len(views.rows))
            for view, value in zip(
                (views.tokens, views.targets, views.slots, views.rows), (tokens, targets, slots, rows), strict=True
            ):
                view.copy_(value)
        self._prepared = (step, tuple(lanes))

    def load(self, step: int, lanes: Sequence[int], scalars: Sequence[float]) -> None:
        """Put a step's inputs and scalars (fp32 values: learning rate, bias corrections) on the device; does not wait."""
        if self._prepared != (step, tuple(lanes)):
            self.prepare(step, lanes)
        host = self._hosts[self._turn]
        for i, value in enumerate(scalars):
            host[:SCALARS].view(torch.float32)[i].fill_(value)
        self._device.copy_(host, non_blocking=True)
