"""The weights before step 1: drawn by the model, or read from a file whose digest is part of the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cuda_ops.errors import UserError
from pipeline.base.checkpoint import tensors_digest
from pipeline.base.files import sha256_of
from pipeline.base.tensors import Spec, TensorFile, checked_finite
from pipeline.models.model import Model
from pipeline.recipe import Recipe
from pipeline.recipe.training import CheckpointInit, WeightsInit

if TYPE_CHECKING:
    from pipeline.models.weights import Weights


def initialise(model: Model, recipe: Recipe, file: Path | None = None) -> None:
    """Fill a model's weights as bits.init says; file: where they are, if not where the recipe says (--init)."""
    init = recipe.bits.init
    if isinstance(init, WeightsInit):
        _read(model, _weights(init, file, model), recipe)
    elif isinstance(init, CheckpointInit):
        _read(model, _checkpoint(init, file), recipe)
    elif file is not None:
        raise UserError(f"--init {file}: bits.init.kind is {init.kind}, which reads no file; leave it out")
    else:
        model.initialise(recipe.bits.seed, init)


def _weights(init: WeightsInit, file: Path | None, model: Model) -> Weights:
    """The recipe's file of weights, by the SHA-256 of its bytes; of a GPT, other programs' files too."""
    if file is None and not init.path:
        where = "python -m pipeline.import_weights --fetch brings it; " if init.url else ""
        raise UserError(f"bits.init.path is empty: {where}give the file of the weights with --init FILE")
    path = file or Path(init.path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights (bits.init.path); give it with --init FILE")
    found = sha256_of(path)
    if found != init.sha256:
        raise UserError(f"{path}: its sha256 is {found}, bits.init.sha256 is {init.sha256}: another file")
    from pipeline.models.weights import initial_weights

    return initial_weights(path, model.config)


def _checkpoint(init: CheckpointInit, file: Path | None) -> TensorFile:
    """Another recipe's checkpoint, by the digest over its tensors."""
    if file is None:
        raise UserError(
            f"bits.init.kind is checkpoint: give the one of step {init.step} of recipe {init.recipe} with --init FILE"
        )
    tensors = TensorFile(file)
    found = tensors_digest(tensors)
    if found != init.sha256:
        raise UserError(
            f"{file}: the digest over its tensors is {found}, bits.init.sha256 is {init.sha256}: another checkpoint than "
            f"that of step {init.step} of recipe {init.recipe}"
        )
    return tensors


def _read(model: Model, tensors: Weights, recipe: Recipe) -> None:
    """Copy the weights; names, shapes and dtypes must be the model's. An optimizer's state may lie beside them."""
    if isinstance(tensors, TensorFile):
        specs = {name: Spec(torch.float32, shape) for name, shape in model.flat.shapes.items()}
        beside = {name: spec for name, spec in tensors.specs.items() if name.startswith("optimizer.")}
        tensors.check(specs | beside, f"the model of recipe {recipe.name}")
    for name, weights in model.weights.items():
        weights.copy_(checked_finite(tensors[name], tensors.path, name))
