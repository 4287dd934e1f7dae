"""The tensors of a training step: their names in the order of computation, and a trace of them that fits in a file.

Names: before/<parameter> and before/optimizer.<state>.<parameter>; of each lane l what the model shows,
lane.<l>/tokens and so on, the gradients of activations being lane.<l>/d.<what>, then lane.<l>/gradient/<parameter>;
gradient/<parameter> after the tree over lanes; loss, norm; after/optimizer.<state>.<parameter>, after/<parameter>.

A tensor of a lane is whole, whatever the micro-batch that it was computed in. A trace holds for each tensor the
SHA-256 of its bytes and every stride-th element, all of them if it is small, so two machines can compare a step by
exchanging a file.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.tensors import Spec, TensorFile, raw, write_tensors
from pipeline.models.model import model_of
from pipeline.recipe import Recipe
from pipeline.training.stored import state_prefixes

TRACE_BYTES = 256 * 2**20  # of samples in a trace, about
SMALL = 2**12  # elements that are kept in any case


def step_shapes(recipe: Recipe, lanes: list[int] | None = None) -> dict[str, tuple[int, ...]]:
    """Every tensor of a step with its shape, in the order of computation; lanes: these alone, and nothing after
    them."""
    bits = recipe.bits
    model = model_of(bits.model)
    parameters = {name: parameter.shape for name, parameter in model.table(bits.model).items()}
    lane = dict(model.shown(bits.model, bits.batch.sequences // bits.batch.lanes))
    lane |= {f"gradient/{name}": parameters[name] for name in reversed(parameters)}

    def state(prefix: str, order: list[str]) -> dict[str, tuple[int, ...]]:
        return {prefix + part + name: shape for part in order for name, shape in parameters.items()}

    parts = ["", *state_prefixes(bits.optimizer)]
    chosen = range(bits.batch.lanes) if lanes is None else lanes
    found = state("before/", parts)
    found |= {f"lane.{k}/{name}": shape for k in chosen for name, shape in lane.items()}
    if lanes is None:
        found |= state("gradient/", [""]) | {"loss": (1,), "norm": (1,)}
        found |= state("after/", [*parts[1:], ""])
    return found


def bytes_digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's bytes, as a trace has it."""
    return hashlib.sha256(raw(tensor)).hexdigest()


@dataclass
class Seen:
    """One tensor of a trace. sample: elements 0, stride, 2 stride, ... of the flattened tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: int
    sha256: str
    rms: float
    sample: Tensor = field(repr=False)

    @property
    def whole(self) -> bool:
        return self.stride == 1


class Collector:
    """An observer: takes the parts of each tensor as they come, in order along the first dimension.

    wanted: names whose tensors are kept whole. samples: bytes for samples in all, 0 for digests alone. Memory is
    bounded by both.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], wanted: set[str], samples: int = TRACE_BYTES) -> None:
        unknown = sorted(wanted - set(shapes))
        if unknown:
            raise UserError(f"--tensor {unknown[0]}: no such tensor in this step; --list names them")
        self.shapes, self.wanted = shapes, wanted
        self.each = max(SMALL, samples // 4 // max(1, len(shapes))) if samples else 0
        self.order: list[str] = []
        self._parts: dict[str, list[Tensor]] = {}
        self._samples: dict[str, list[Tensor]] = {}
        self._hash: dict[str, Any] = {}
        self._seen: dict[str, int] = {}
        self._squares: dict[str, float] = {}
        self._dtype: dict[str, str] = {}

    def stride(self, name: str) -> int:
        size = int(np.prod(self.shapes[name]))
        return -(-size // self.each) if self.each and size else max(1, size)

    def __call__(self, name: str, tensor: Tensor) -> None:
        if name not in self.shapes:
            return
        flat = tensor.cpu().contiguous().view(-1)
        if name not in self._hash:
            self.order.append(name)
            self._hash[name], self._seen[name], self._squares[name] = hashlib.sha256(), 0, 0.0
            self._samples[name], self._parts[name], self._dtype[name] = [], [], str(flat.dtype)
        values = flat.numpy()
        self._hash[name].update(values)
        self._squares[name] += float(np.square(values, dtype=np.float64).sum())
        done, stride = self._seen[name], self.stride(name)
        self._samples[name].append(flat[-done % stride :: stride].clone())
        self._seen[name] = done + flat.numel()
        if name in self.wanted:
            self._parts[name].append(flat.clone())

    def trace(self) -> list[Seen]:
        """Everything seen, in the order in which it began to come."""
        found = []
        for name in self.order:
            size = int(np.prod(self.shapes[name]))
            if self._seen[name] != size:
                raise AssertionError(f"{name}: {self._seen[name]} of {size} elements were observed")
            rms = (self._squares[name] / max(1, size)) ** 0.5
            sample, digest = torch.cat(self._samples[name]), self._hash[name].hexdigest()
            found.append(Seen(name, self._dtype[name], self.shapes[name], self.stride(name), digest, rms, sample))
        return found

    def tensor(self, name: str) -> Tensor:
        return torch.cat(self._parts[name]).view(self.shapes[name])


@dataclass
class Trace:
    """A step as one side computed it. about: step, recipe_id, sources, code, line, where it began.

    damage: of a file that was cut off, in words; of a tensor that is not whole in it the digest alone is known.
    """

    about: dict[str, Any]
    tensors: list[Seen]
    damage: str = ""

    def save(self, path: Path) -> None:
        listed = [{k: v for k, v in asdict(seen).items() if k != "sample"} for seen in self.tensors]
        samples = {seen.name: seen.sample for seen in self.tensors}
        specs = {name: Spec(sample.dtype, tuple(sample.shape)) for name, sample in samples.items()}
        write_tensors(path, specs, samples, self.about | {"tensors": listed})

    @classmethod
    def load(cls, path: Path) -> Trace:
        file, none = TensorFile(path, whole=False), torch.empty(0)
        try:
            about = dict(file.about)
            listed = about.pop("tensors")
            if not file.damage and {item["name"] for item in listed} - set(file):
                raise ValueError("its list names tensors that are not in it")
            samples = [file.get(item["name"], none) for item in listed]
            shapes = [{"shape": tuple(item["shape"])} for item in listed]
            seen = [Seen(**(i | s), sample=t) for i, s, t in zip(listed, shapes, samples, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a trace of a step: {error}; write one with pipeline.replay --trace") from None
        return cls(about, seen, file.damage)
