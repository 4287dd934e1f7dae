"""What a checkpoint of a recipe holds: names, shapes and dtypes of its tensors, and what its metadata say.

Evaluation and sampling read checkpoints too, so this knows no kernel: an optimizer's edit does not rerun them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cuda_ops.errors import UserError
from pipeline import recipe as recipes
from pipeline.base.checkpoint import Stored
from pipeline.base.tensors import Spec
from pipeline.models.model import model_of
from pipeline.recipe import Recipe, as_written, recipe_id
from pipeline.training.outliers import Skipping

STATES = {"adamw": ("m", "v")}  # by kind of optimizer, what it keeps for each parameter


def state_prefixes(config: recipes.AdamW) -> list[str]:
    """What stands before a parameter's name in a checkpoint, for each state: optimizer.m., optimizer.v."""
    return [f"optimizer.{name}." for name in STATES[config.kind]]


def specs_of(recipe: Recipe) -> dict[str, Spec]:
    """Every tensor of a checkpoint of a recipe, by name; of one that makes no step, the weights alone."""
    bits = recipe.bits
    table = model_of(bits.model).table(bits.model)
    states = state_prefixes(bits.optimizer) if bits.steps else []
    found = {
        prefix + name: Spec(torch.float32, parameter.shape)
        for prefix in ("", *states)
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
