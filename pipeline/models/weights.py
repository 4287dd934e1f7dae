"""Weights of a GPT from any file that holds them: ours, Hugging Face's, llm.c's; by our names, in our layout, fp32.

Told apart by content. Each tensor is read when it is asked for, so no file is in memory whole. Pickle is never read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cuda_ops.errors import UserError
from pipeline.base.tensors import Spec, TensorFile
from pipeline.models.hugging_face import FromHuggingFace, described
from pipeline.models.llmc import FromLlmc, is_llmc
from pipeline.models.model import model_of
from pipeline.recipe import Gpt

BESIDE = "optimizer."  # state of a run beside the weights of a checkpoint
CONFIG, TENSORS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a zip of torch.save, a bare pickle
CONVERT = "python -c \"from transformers import GPT2LMHeadModel as M; M.from_pretrained('{folder}').save_pretrained('{folder}-safe')\""


Weights = TensorFile | FromHuggingFace | FromLlmc


def refuse_pickle(path: Path) -> None:
    """A UserError for a file that PyTorch pickled: to read it would be to run it."""
    with open(path, "rb") as file:
        begin = file.read(4)
    if begin.startswith(PICKLE):
        raise UserError(
            f"{path}: a pickle of PyTorch, which is a program and is not run here. Convert it where you trust it: "
            + CONVERT.format(folder=path.parent)
        )


def file_of(path: Path) -> Path:
    """The one file of tensors that a path names: itself, or that of a Hugging Face folder."""
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: no such file of weights")
        return path
    if (path / TENSORS).exists():
        return path / TENSORS
    if (path / INDEX).exists():
        raise UserError(f"{path}: its tensors are in several files ({INDEX}); save it in one: max_shard_size='100GB'")
    for other in sorted([*path.glob("*.bin"), *path.glob("*.pt")]):
        refuse_pickle(other)
    raise UserError(f"{path}: a folder without {TENSORS}")


def config_beside(path: Path) -> Gpt | None:
    """The model that config.json beside a file describes, if there is one."""
    about = path.with_name(CONFIG)
    if not about.exists():
        return None
    try:
        return described(json.loads(about.read_text(encoding="utf-8")), about)
    except ValueError as error:
        raise UserError(f"{about}: not JSON: {error}") from None


def initial_weights(path: Path, config: Any) -> Weights | TensorFile:
    """A file of weights to begin from: of a GPT, other programs' files too."""
    return open_weights(path, config)[0] if isinstance(config, Gpt) else TensorFile(path)


def open_weights(path: Path, config: Gpt | None = None) -> tuple[Weights, Gpt]:
    """The weights and the model that they are of. config: the model that a recipe has, to which they must fit."""
    path = file_of(path)
    refuse_pickle(path)
    if is_llmc(path):
        found = FromLlmc(path)
        return found, _same(found.config, config, path)
    file = TensorFile(path)
    if file.about is not None or "h.0.attn.qkv.weight" in file:
        model = _same(_own_config(file), config, path)
        check(file, model)
        return file, model
    model = _same(config_beside(path), config, path, padded=False)
    return FromHuggingFace(file, model), model


def check(file: TensorFile, config: Gpt) -> None:
    """A UserError where one of our files has not the model's tensors; an optimizer's state may lie beside them."""
    specs = {name: Spec(torch.float32, parameter.shape) for name, parameter in model_of(config).table(config).items()}
    beside = {name: spec for name, spec in file.specs.items() if name.startswith(BESIDE)}
    file.check(specs | beside, f"a gpt of {config.layers} layers and {config.channels} channels")


def _own_config(file: TensorFile) -> Gpt | None:
    model: Any = file.about.get("model") if isinstance(file.about, dict) else None
    return Gpt.model_validate(model) if isinstance(model, dict) and model.get("kind") == "gpt" else None


def _same(found: Gpt | None, wanted: Gpt | None, path: Path, padded: bool = True) -> Gpt:
    """The model of a file; a UserError where neither it nor a recipe says which, or where they disagree.

    padded: the file has the padded rows of the vocabulary too.
    """
    if found is None and wanted is None:
        raise UserError(f"{path}: it does not say of which model it is; put its {CONFIG} beside it, or name a recipe")
    if found is not None and wanted is not None:
        keys = ("layers", "heads", "channels", "context", "vocab_size", *(["padded_vocab_size"] if padded else []))
        for key in keys:
            if getattr(found, key) != getattr(wanted, key):
                raise UserError(
                    f"{path}: {key} {getattr(found, key)}, the recipe's bits.model.{key} is {getattr(wanted, key)}: "
                    "weights of another model"
                )
    model = wanted or found
    assert model is not None
    return model
