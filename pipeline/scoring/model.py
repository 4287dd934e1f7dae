"""A model for inference from a checkpoint: what sampling and evaluation share."""

from __future__ import annotations

from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base.checkpoint import Checkpoint
from pipeline.machine.devices import device_of
from pipeline.machine.execution import check_device
from pipeline.machine.memory import Memory, OutOfMemory, gib
from pipeline.models.gpt import Gpt
from pipeline.recipe import Recipe, recipe_id


def load_model(
    recipe: Recipe, checkpoint: Checkpoint, path: Path, batch: int, decode_batch: int = 0, device: str = "cpu"
) -> Gpt:
    """The recipe's model with the weights of a checkpoint; batch sequences at a time."""
    if checkpoint.recipe_id != recipe_id(recipe):
        raise UserError(f"{path}: a checkpoint of recipe {checkpoint.recipe_id[:12]}, this is {recipe_id(recipe)[:12]}")

    check_device(recipe, device)

    def model_in(memory: Memory, batch: int, decode_batch: int) -> Gpt:
        return Gpt(recipe.bits.model, batch, training=False, decode_batch=decode_batch, memory=memory)

    try:
        model = model_in(Memory(device_of(device)), batch, decode_batch)
    except OutOfMemory as error:
        whole, least = Memory("meta", device), Memory("meta", device)
        model_in(whole, batch, decode_batch)
        model_in(least, 1, min(1, decode_batch))
        raise UserError(
            f"out of memory: the model's buffers need {gib(whole.bytes)} ({error}); --batch-size 1 would need {gib(least.bytes)}"
        ) from None
    for name, weight in model.weights.items():
        weight.copy_(checkpoint.tensors[name])
    return model
