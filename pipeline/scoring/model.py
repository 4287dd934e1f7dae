"""A model for inference from a checkpoint: what sampling and evaluation share."""

from __future__ import annotations

from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base.checkpoint import Stored
from pipeline.base.tensors import checked_finite
from pipeline.machine.devices import check_device, device_of
from pipeline.machine.memory import Memory, OutOfMemory, gib
from pipeline.models.model import Model, model_of
from pipeline.recipe import Recipe
from pipeline.training.stored import checked


def load_model(
    recipe: Recipe, checkpoint: Stored, path: Path, batch: int, decode_batch: int = 0, device: str = "cpu"
) -> Model:
    """The recipe's model with the weights of a checkpoint, which is checked whole; batch samples at a time."""
    checked(checkpoint, recipe, path)
    check_device(recipe.bits, device)

    def model_in(memory: Memory, batch: int, decode_batch: int) -> Model:
        kind = model_of(recipe.bits.model)
        numerics = recipe.bits.numerics
        return kind(
            recipe.bits.model, batch, training=False, decode_batch=decode_batch, memory=memory, numerics=numerics
        )

    try:
        model = model_in(Memory(device_of(device)), batch, decode_batch)
    except OutOfMemory as error:
        whole, least = Memory("meta", device), Memory("meta", device)
        model_in(whole, batch, decode_batch)
        model_in(least, 1, min(1, decode_batch))
        raise UserError(
            f"out of memory: the model's buffers need {gib(whole.bytes)} ({error}); --batch-size 1 would need "
            f"{gib(least.bytes)}"
        ) from None
    for name, weight in model.weights.items():
        weight.copy_(checked_finite(checkpoint.tensors[name], path, name))
    return model
