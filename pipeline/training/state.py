"""The state of a run as a checkpoint's tensors: how ranks bring them together, and how each takes its part of them.

A parameter is at every rank, its optimizer state in shards. A checkpoint is gathered tensor by tensor at rank 0, on the
host, so it takes no memory but that of one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from pipeline.base.tensors import Spec, TensorFile, checked_finite
from pipeline.machine.ranks import Ranks
from pipeline.models.flat import Shards
from pipeline.models.model import Model
from pipeline.training.optimizers import Optimizer
from pipeline.training.outliers import Skipping
from pipeline.training.stored import state_prefixes


class State(Mapping[str, Tensor]):
    """The tensors of a run under way. To read one is a collective: every rank must, in the order of iteration.

    Rank 0 gets it, on the host; it may be the buffer itself. The others get nothing of use.
    """

    def __init__(
        self, specs: dict[str, Spec], model: Model, optimizer: Optimizer, skipping: Skipping, ranks: Ranks,
        shards: Shards,
    ) -> None:  # fmt: skip
        self.specs, self._model, self._ranks, self._shards = specs, model, ranks, shards
        self._prefixes = dict(zip(state_prefixes(optimizer.config), optimizer.state.values(), strict=True))
        self._skipping = skipping

    def __len__(self) -> int:
        return len(self.specs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._model.weights:
            weights = self._model.weights[name]
            return weights.cpu() if self._ranks.first else weights.view(-1)[:0]
        windows = self._skipping.state()
        if name in windows:
            return windows[name]
        return self._gathered(name)

    def _parts(self, parameter: str, rank: int) -> list[tuple[int, int, int]]:
        """(a, b, at): elements a .. b - 1 of a parameter lie at `at` of a rank's shard."""
        flat, found = self._model.flat, []
        for piece in self._shards.pieces(rank):
            a, b = flat.part(parameter, piece.begin, piece.end)
            if a < b:
                found.append((a, b, flat.offsets[parameter] + a - piece.begin + piece.at))
        return found

    def _gathered(self, name: str) -> Tensor:
        ranks = self._ranks
        prefix, shard = next(item for item in self._prefixes.items() if name.startswith(item[0]))
        parts = [self._parts(name.removeprefix(prefix), rank) for rank in range(ranks.size)]
        own = [shard[at : at + b - a] for a, b, at in parts[ranks.rank]] or [shard[:0]]
        mine = own[0] if len(own) == 1 else torch.cat(own)
        given = ranks.collect(mine, [sum(b - a for a, b, _ in each) for each in parts])
        if not ranks.first:
            return given
        if len(self._shards.ranges) == 1:
            return given.view(self.specs[name].shape)
        whole = torch.from_numpy(np.empty(given.shape, dtype=given.numpy().dtype))  # as in Ranks.collect
        begin = 0
        for a, b, _ in (part for each in parts for part in each):
            whole[a:b] = given[begin : begin + b - a]
            begin += b - a
        return whole.view(self.specs[name].shape)

    def restore(self, file: TensorFile) -> None:
        """Take over a file that was checked: of each tensor, what this rank holds, and no more is read. Windows that it
        has not stay empty."""

        def read(name: str, a: int, b: int) -> Tensor:
            return checked_finite(file.part(name, a, b), file.path, name)

        for parameter, weights in self._model.weights.items():
            weights.view(-1).copy_(read(parameter, 0, weights.numel()))
            for a, b, at in self._parts(parameter, self._ranks.rank):
                for prefix, shard in self._prefixes.items():
                    shard[at : at + b - a].copy_(read(prefix + parameter, a, b))
        for name in self._skipping.state().keys() & file.keys():
            self._skipping.restore(name, checked_finite(file[name], file.path, name))
