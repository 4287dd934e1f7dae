"""GPT-2 as llm.c keeps it: a .bin of a header and 16 arrays, each over all layers (llm.c f1e2ace, train_gpt2.cu).

256 int32 little-endian: magic 20240326, version 3 (fp32) or 5 (bf16), T, V, layers, heads, channels, padded V. The arrays
follow without gaps, in the layout of ours ([out, in]), the token embedding with its padded rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.files import atomic_write
from pipeline.base.tensors import raw
from pipeline.models.model import model_of
from pipeline.recipe import Gpt

MAGIC, HEADER = 20240326, 1024
DTYPES = {3: torch.float32, 5: torch.bfloat16}  # by version
STATE = 20240527  # magic of a training state
ARRAYS = (
    "wte.weight", "wpe.weight", "h.*.ln_1.weight", "h.*.ln_1.bias", "h.*.attn.qkv.weight", "h.*.attn.qkv.bias",
    "h.*.attn.proj.weight", "h.*.attn.proj.bias", "h.*.ln_2.weight", "h.*.ln_2.bias", "h.*.mlp.fc.weight",
    "h.*.mlp.fc.bias", "h.*.mlp.proj.weight", "h.*.mlp.proj.bias", "ln_f.weight", "ln_f.bias",
)  # fmt: skip


def names(layers: int) -> list[str]:
    """Our names of the parameters in the order in which a file has them."""
    found = []
    for array in ARRAYS:
        found += [array.replace("*", str(i)) for i in range(layers)] if "*" in array else [array]
    return found


def is_llmc(path: Path) -> bool:
    """Whether a file begins as one of llm.c's models or states."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(4), "little") in (MAGIC, STATE)


class FromLlmc(Mapping[str, Tensor]):
    """The tensors of a .bin by our names, fp32, each read when it is asked for. config: what its header says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            header = np.frombuffer(file.read(HEADER), dtype="<i4")
        if len(header) != HEADER // 4 or header[0] != MAGIC:
            what = (
                "a training state: give the model_*.bin beside it, with --state"
                if len(header) and header[0] == STATE
                else "no model"
            )
            raise UserError(f"{path}: {what} of llm.c (expected a header of {HEADER} bytes that begins with {MAGIC})")
        version, context, vocabulary, layers, heads, channels, rows = (int(n) for n in header[1:8])
        if version not in DTYPES:
            raise UserError(
                f"{path}: version {version}; read are 3 (fp32) and 5 (bf16). Earlier ones have no padded vocabulary: "
                "write it again with llm.c's train_gpt2.py"
            )
        if min(context, vocabulary, layers, heads, channels) < 1 or channels % heads or rows < vocabulary:
            raise UserError(f"{path}: its header has impossible sizes: {header[2:8].tolist()}")
        self.config = Gpt(
            kind="gpt", layers=layers, heads=heads, channels=channels, context=context, vocab_size=vocabulary,
            padded_vocab_size=rows,
        )  # fmt: skip
        self.dtype = DTYPES[version]
        self.shapes = {name: parameter.shape for name, parameter in model_of(self.config).table(self.config).items()}
        self._places, at = {}, HEADER
        for name in names(layers):
            self._places[name] = at
            at += math.prod(self.shapes[name]) * self.dtype.itemsize
        if path.stat().st_size != at:
            raise UserError(f"{path}: {path.stat().st_size} bytes, its header says {at}: cut off, or another model's")

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        count = math.prod(shape)
        words = np.fromfile(self.path, dtype=np.int32 if self.dtype.itemsize == 4 else np.int16, count=count,
                            offset=self._places[name])  # fmt: skip
        return torch.from_numpy(words).view(self.dtype).to(torch.float32).view(shape)


def write(path: Path, tensors: Mapping[str, Tensor], config: Gpt, version: int) -> str:
    """Write a .bin tensor by tensor, bf16 rounded to the nearest, ties to even; returns the file's SHA-256."""
    header = np.zeros(HEADER // 4, dtype="<i4")
    header[:8] = (
        MAGIC, version, config.context, config.vocab_size, config.layers, config.heads, config.channels,
        config.padded_vocab_size,
    )  # fmt: skip
    digest = hashlib.sha256(header.tobytes())
    with atomic_write(path) as file:
        file.write(header.tobytes())
        for name in names(config.layers):
            tensor = tensors[name].to(DTYPES[version]).contiguous()
            content = raw(tensor if version == 3 else tensor.view(torch.int16))
            file.write(content)
            digest.update(content)
    return digest.hexdigest()
