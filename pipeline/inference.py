"""A model for inference from a checkpoint: what sampling and evaluation share."""

from __future__ import annotations

from pathlib import Path

from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.models.gpt import Gpt
from pipeline.recipe import Recipe, recipe_id


def load_model(recipe: Recipe, checkpoint: Checkpoint, path: Path, batch: int, decode_batch: int = 0) -> Gpt:
    """The recipe's model with the weights of a checkpoint; batch sequences at a time."""
    if checkpoint.recipe_id != recipe_id(recipe):
        raise UserError(f"{path}: a checkpoint of recipe {checkpoint.recipe_id[:12]}, this is {recipe_id(recipe)[:12]}")
    model = Gpt(recipe.bits.model, batch, training=False, decode_batch=decode_batch)
    for name, weight in model.weights.items():
        weight.copy_(checkpoint.tensors[name])
    return model
