"""The state of a run as a checkpoint's tensors: what they are, how ranks bring them together, how they are checked.

A parameter is at every rank, its optimizer state in shards. A checkpoint is gathered tensor by tensor at rank 0, on the
host, so it takes no memory but that of one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.checkpoint import Stored
from pipeline.base.tensors import Spec, checked_finite
from pipeline.machine.ranks import Ranks
from pipeline.models.model import Model, model_of
from pipeline.recipe import Recipe, as_written, recipe_id
from pipeline.training.optimizers import Optimizer, state_prefixes
from pipeline.training.outliers import Skipping


def specs_of(recipe: Recipe) -> dict[str, Spec]:
    """Every tensor of a checkpoint of a recipe, by name."""
    bits = recipe.bits
    table = model_of(bits.model).table(bits.model)
    found = {
        prefix + name: Spec(torch.float32, parameter.shape)
        for prefix in ("", *state_prefixes(bits.optimizer))
        for name, parameter in table.items()
    }
    found |= {name: Spec(t.dtype, tuple(t.shape)) for name, t in Skipping(bits.skip).state().items()}
    return dict(sorted(found.items()))


def about_of(recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint's metadata say of its model, for a reader."""
    bits = as_written(recipe)["bits"]
    return {
        "recipe": recipe.name,
        "model": bits["model"],
        "vocabulary": bits["data"].get("tokenizer"),
        "numerics": bits["numerics"],
    }


def checked(stored: Stored, recipe: Recipe, path: Path) -> Stored:
    """A checkpoint of this recipe; a UserError where it is another's, or its tensors are not the recipe's."""
    if stored.recipe_id != recipe_id(recipe):
        raise UserError(f"{path}: a checkpoint of recipe {stored.recipe_id[:12]}, this is {recipe_id(recipe)[:12]}")
    stored.tensors.check(specs_of(recipe), f"recipe {recipe.name}")
    return stored


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
