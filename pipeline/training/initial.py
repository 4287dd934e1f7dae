"""The weights before the first step: drawn by the model, or read from a file whose digest is part of the recipe.

With init.steps_done the file is that of a run under way, whose optimizer's state is taken up with its weights.
"""

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
from pipeline.training.outliers import PREFIX
from pipeline.training.stored import specs_of

if TYPE_CHECKING:
    from pipeline.models.weights import Weights


def initialise(model: Model, recipe: Recipe, file: Path | None = None) -> TensorFile | None:
    """Fill a model's weights as bits.init says; returns the file of the run that is gone on with, if one is.

    file: where the weights are, if not where the recipe says (--init).
    """
    init = recipe.bits.init
    if isinstance(init, WeightsInit | CheckpointInit):
        tensors = _weights(init, file, model) if isinstance(init, WeightsInit) else _checkpoint(init, file)
        _read(model, tensors, recipe)
        return _under_way(tensors, recipe) if init.steps_done else None
    if file is not None:
        raise UserError(f"--init {file}: bits.init.kind is {init.kind}, which reads no file; leave it out")
    model.initialise(recipe.bits.seed, init)
    return None


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


def _under_way(tensors: Weights, recipe: Recipe) -> TensorFile:
    """The file of a run under way; a UserError where it has no state, or that of another step."""
    done, path = recipe.bits.start, tensors.path
    if not isinstance(tensors, TensorFile) or not isinstance(tensors.about, dict) or "step" not in tensors.about:
        raise UserError(
            f"{path}: weights without an optimizer's state, but bits.init.steps_done is {done}; leave it out to begin at step 1"
        )
    if tensors.about["step"] != done:
        raise UserError(f"{path}: of step {tensors.about['step']}, bits.init.steps_done is {done}")
    windows = {name for name in tensors.specs if name.startswith(PREFIX)}
    specs = {name: spec for name, spec in specs_of(recipe).items() if not name.startswith(PREFIX)}
    tensors.check(specs | {name: tensors.specs[name] for name in windows}, f"a run under way of recipe {recipe.name}")
    return tensors


def _read(model: Model, tensors: Weights, recipe: Recipe) -> None:
    """Copy the weights; names, shapes and dtypes must be the model's. An optimizer's state may lie beside them."""
    if isinstance(tensors, TensorFile):
        specs = {name: Spec(torch.float32, shape) for name, shape in model.flat.shapes.items()}
        beside = {name: spec for name, spec in tensors.specs.items() if name.startswith("optimizer.")}
        tensors.check(specs | beside, f"the model of recipe {recipe.name}")
    for name, weights in model.weights.items():
        weights.copy_(checked_finite(tensors[name], tensors.path, name))
