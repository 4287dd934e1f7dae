"""GPT-2 as Hugging Face's transformers keeps it: names and layout of its tensors, and config.json.

Its four projections are Conv1D, stored [in, out] where ours are [out, in]; its head is the token embedding, tied, and its
vocabulary is not padded. Names may begin with `transformer.`, and a file may hold the causal masks: both are read.
Source: openai-community/gpt2 at 607a30d7 and transformers' modeling_gpt2.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.tensors import Spec, TensorFile
from pipeline.models.model import model_of
from pipeline.recipe import Gpt

PREFIX = "transformer."
NAMES = {"attn.qkv": "attn.c_attn", "attn.proj": "attn.c_proj", "mlp.fc": "mlp.c_fc", "mlp.proj": "mlp.c_proj"}
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # no parameter: which token may see which
HEAD = "lm_head.weight"
# What our arithmetic is; a model whose config.json says otherwise is another model.
FIXED: dict[str, Any] = {
    "model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "n_inner": None,
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
    "tie_word_embeddings": True, "add_cross_attention": False,
}  # fmt: skip


def theirs(name: str) -> tuple[str, bool]:
    """The name of one of our parameters there, and whether it lies transposed."""
    for ours, other in NAMES.items():
        if f".{ours}." in name:
            return name.replace(f".{ours}.", f".{other}."), name.endswith(".weight")
    return name, False


def specs_of(config: Gpt) -> dict[str, Spec]:
    """Every tensor of model.safetensors, as we write it."""
    found = {}
    for name, parameter in model_of(config).table(config).items():
        other, transposed = theirs(name)
        shape = parameter.shape[::-1] if transposed else parameter.shape
        found[other] = Spec(torch.float32, (config.vocab_size, config.channels) if name == "wte.weight" else shape)
    return found


def config_json(config: Gpt, separator: int | None) -> dict[str, Any]:
    """config.json of a model; separator: the token that begins and ends texts, if there is one."""
    return FIXED | {
        "architectures": ["GPT2LMHeadModel"], "n_layer": config.layers, "n_head": config.heads, "n_embd": config.channels,
        "n_positions": config.context, "n_ctx": config.context, "vocab_size": config.vocab_size, "initializer_range": 0.02,
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": separator, "eos_token_id": separator,
        "dtype": "float32", "use_cache": True,
    }  # fmt: skip


def padded(vocabulary: int) -> int:
    """Rows of our token embedding: the next multiple of 128 from GPT-2's size on (50,304 of 50,257), else of 16."""
    multiple = 128 if vocabulary >= 4096 else 16
    return -(-vocabulary // multiple) * multiple


def described(content: Any, path: Path) -> Gpt:
    """The model that config.json describes; a UserError names the first key that our arithmetic does not have."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: {type(content).__name__}, expected the keys of a GPT-2")
    for key, value in FIXED.items():
        if content.get(key, value) != value:
            raise UserError(f"{path}: {key} is {content[key]!r}, expected {value!r}: another architecture than ours")
    sizes: dict[str, int] = {}
    for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size"):
        size = content.get(key)
        if type(size) is not int or size <= 0:
            raise UserError(f"{path}: {key} is {size!r}, expected a number above 0")
        sizes[key] = size
    if sizes["n_embd"] % sizes["n_head"]:
        raise UserError(f"{path}: n_embd {sizes['n_embd']} is not a multiple of n_head {sizes['n_head']}")
    return Gpt(
        kind="gpt", layers=sizes["n_layer"], heads=sizes["n_head"], channels=sizes["n_embd"],
        context=sizes["n_positions"], vocab_size=sizes["vocab_size"], padded_vocab_size=padded(sizes["vocab_size"]),
    )  # fmt: skip


class FromHuggingFace(Mapping[str, Tensor]):
    """The tensors of a model.safetensors by our names, in our layout, each read when it is asked for."""

    def __init__(self, file: TensorFile, config: Gpt) -> None:
        self.path, self._file, self._config = file.path, file, config
        self._table = model_of(config).table(config)
        self._prefix = PREFIX if f"{PREFIX}wte.weight" in file else ""
        plain = {name.removeprefix(self._prefix): name for name in file}
        expected = specs_of(config)
        for name, spec in expected.items():
            if name not in plain:
                raise UserError(f"{file.path}: it has no tensor {name}, which a GPT-2 of {config.layers} layers has")
            found = file.specs[plain[name]]
            if (found.dtype, found.shape) != (spec.dtype, spec.shape):
                raise UserError(
                    f"{file.path}: {name} is {found.dtype} of shape {list(found.shape)}, expected {spec.dtype} of shape "
                    f"{list(spec.shape)}: {self._hint(name)}"
                )
        for name in plain:
            if name not in expected and name != HEAD and not MASK.fullmatch(name):
                raise UserError(f"{file.path}: it has a tensor {name}, which a GPT-2 of {config.layers} layers has not")
        if HEAD in plain and not torch.equal(file[plain[HEAD]], file[plain["wte.weight"]]):
            raise UserError(f"{file.path}: {HEAD} differs from wte.weight: the head is not tied, ours is")

    def _hint(self, name: str) -> str:
        if name == "wte.weight":
            return f"the vocabulary is not the {self._config.vocab_size} tokens of the model"
        return "convert it to fp32 there, or name the model that it is of"

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __getitem__(self, name: str) -> Tensor:
        other, transposed = theirs(name)
        tensor = self._file[self._prefix + other]
        if transposed:
            return tensor.t().contiguous()
        if name == "wte.weight":
            return with_padding(tensor, self._config.padded_vocab_size)
        return tensor


def with_padding(embedding: Tensor, rows: int) -> Tensor:
    """An embedding with zeros for the rows that no token has."""
    return torch.cat([embedding, torch.zeros(rows - embedding.shape[0], embedding.shape[1])])


class ToHuggingFace(Mapping[str, Tensor]):
    """Our tensors under their names and in their layout: what write_tensors asks for."""

    def __init__(self, tensors: Mapping[str, Tensor], config: Gpt) -> None:
        self._tensors, self._config = tensors, config
        self._ours = {theirs(name)[0]: name for name in model_of(config).table(config)}

    def __len__(self) -> int:
        return len(self._ours)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ours)

    def __getitem__(self, other: str) -> Tensor:
        name = self._ours[other]
        tensor = self._tensors[name]
        if theirs(name)[1]:
            return tensor.t().contiguous()
        return tensor[: self._config.vocab_size] if name == "wte.weight" else tensor
