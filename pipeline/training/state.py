"""The state of a run as a checkpoint's tensors: how ranks bring them together, and how each takes its part of them.

A parameter is at every rank, its optimizer state in shards. A checkpoint is gathered tensor by tensor at rank 0, on the
host, so it takes no memory but that of one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from pipeline.base.checkpoint import Stored
from pipeline.base.tensors import Spec, checked_finite
from pipeline.machine.ranks import Ranks
from pipeline.models.model import Model
from pipeline.training.optimizers import Optimizer
from pipeline.training.outliers import Skipping
from pipeline.training.stored import state_prefixes


class State(Mapping[str, Tensor]):
    """The tensors of a run under way. To read one is a collective: every rank must, in the order of iteration.

    Rank 0 gets it, on the host; it may be the buffer itself. The others get nothing of use.
    """

    def __init__(
        self, specs: dict[str, Spec], model: Model, optimizer: Optimizer, skipping: Skipping, ranks: Ranks
    ) -> None:
        self.specs, self._model, self._ranks = specs, model, ranks
        self._prefixes = dict(zip(state_prefixes(optimizer.config), optimizer.state.values(), strict=True))
        self._skipping = skipping

    def __len__(self) -> int:
        return len(self.specs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._model.weights:
            return self._model.weights[name].cpu()
        windows = self._skipping.state()
        if name in windows:
            return windows[name]
        return self._gathered(name)

    def _gathered(self, name: str) -> Tensor:
        flat, ranks = self._model.flat, self._ranks
        prefix, shard = next(item for item in self._prefixes.items() if name.startswith(item[0]))
        parameter = name.removeprefix(prefix)
        parts = [flat.part(parameter, *flat.shard(rank, ranks.size)) for rank in range(ranks.size)]
        a, b = parts[ranks.rank]
        begin = flat.offsets[parameter] + a - flat.shard(ranks.rank, ranks.size)[0]
        mine = shard[begin : begin + b - a] if a < b else shard[:0]
        whole = ranks.collect(mine, [b - a for a, b in parts])
        return whole.view(self.specs[name].shape) if ranks.first else whole

    def restore(self, stored: Stored) -> None:
        """Take over a checkpoint that was checked: of each tensor, what this rank holds, and no more is read."""
        flat, file = self._model.flat, stored.tensors
        first, last = flat.shard(self._ranks.rank, self._ranks.size)

        def read(name: str, a: int, b: int) -> Tensor:
            return checked_finite(file.part(name, a, b), file.path, name)

        for parameter, at in flat.offsets.items():
            weights = self._model.weights[parameter]
            weights.view(-1).copy_(read(parameter, 0, weights.numel()))
            a, b = flat.part(parameter, first, last)
            for prefix, shard in self._prefixes.items():
                if a < b:
                    shard[at + a - first : at + b - first].copy_(read(prefix + parameter, a, b))
        for name in self._skipping.state():
            self._skipping.restore(name, checked_finite(file[name], file.path, name))
