"""Files of tensors in the safetensors format, written and read tensor by tensor.

The format: the length of a header (8 bytes, little-endian), the header, JSON of dtype, shape and place of each tensor,
padded to a multiple of 8 bytes, then the tensors' bytes without gaps. A file holds no more than one tensor in memory
at a time, and its bytes are those that the safetensors library writes. The one metadata key is JSON, because that
library writes several keys in random order. Nothing of a header is believed: each fault is a UserError, and no buffer
is larger than the file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.files import atomic_write

KEY = "samebits"
# In the order in which the library lays tensors out.
DTYPES = {"I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32, "U8": torch.uint8}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ORDER = list(NAMES)
HEADER_LIMIT = 2**24  # bytes; the header of 10,000 tensors takes about one million


@dataclass(frozen=True)
class Spec:
    """Dtype and shape of a tensor, and where its bytes lie in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int = 0

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    path: Path, specs: Mapping[str, Spec], tensors: Mapping[str, Tensor], about: Any, metadata: Any = None
) -> str:
    """Write the tensors in the order of the library, by dtype and then by name; returns the file's SHA-256.

    specs are all that the header needs; each tensor is asked for once, in that order, and not kept. metadata: what other
    programs want to read there, instead of `about`.
    """
    names = sorted(specs, key=lambda name: (ORDER.index(specs[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": metadata or {KEY: json.dumps(about, sort_keys=True)}}
    end = 0
    for name in names:
        begin, end = end, end + specs[name].bytes
        header[name] = {
            "dtype": NAMES[specs[name].dtype],
            "shape": list(specs[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with atomic_write(path) as file:

        def put(content: bytes | memoryview) -> None:
            file.write(content)
            digest.update(content)

        put(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = tensors[name]
            if (tensor.dtype, tuple(tensor.shape)) != (specs[name].dtype, specs[name].shape):
                raise AssertionError(f"{name}: {tensor.dtype} {list(tensor.shape)}, announced as {specs[name]}")
            put(raw(tensor))
    return digest.hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """The little-endian bytes of a tensor on the host; of a contiguous one, its own memory."""
    return memoryview(tensor.contiguous().view(-1).numpy().view(np.uint8).data)


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a file by name; each access reads one. about: the metadata, or None. specs: all names, dtypes and
    shapes.

    whole=False is for who looks at damage: of a file of another length than its header says, the tensors that lie in it
    to their end. damage: in words, or nothing.
    """

    def __init__(self, path: Path, whole: bool = True) -> None:
        self.path, self.damage = path, ""
        self.about, self.specs = self._header(whole)

    def _header(self, whole: bool) -> tuple[Any, dict[str, Spec]]:
        try:
            with open(self.path, "rb") as file:
                file.seek(0, 2)
                total = file.tell()
                file.seek(0)
                size = int.from_bytes(file.read(8), "little")
                if not 2 <= size <= min(HEADER_LIMIT, total - 8):
                    raise ValueError(f"its header would have {size} of {total} bytes")
                header = json.loads(file.read(size), object_pairs_hook=_once)
            metadata = header.pop("__metadata__", {})
            about = json.loads(metadata[KEY]) if KEY in metadata else None
            if whole:
                return about, _specs(header, 8 + size, total)
            specs = _specs(header, 8 + size, None)
            announced = max((spec.begin + spec.bytes for spec in specs.values()), default=8 + size)
            if announced == total:
                return about, specs
            kept = {name: spec for name, spec in specs.items() if spec.begin + spec.bytes <= total}
            self.damage = (
                f"{total} bytes, where its header announces {announced}: {len(kept)} of {len(specs)} tensors are whole"
            )
            return about, kept
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            words = f"no {error} in its header" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{self.path}: not a whole safetensors file: {words}") from None

    def __len__(self) -> int:
        return len(self.specs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __getitem__(self, name: str) -> Tensor:
        return self.part(name, 0, math.prod(self.specs[name].shape)).view(self.specs[name].shape)

    def part(self, name: str, begin: int, end: int) -> Tensor:
        """Elements begin .. end - 1 of the flattened tensor; nothing else is read."""
        spec = self.specs[name]
        with open(self.path, "rb") as file:
            file.seek(spec.begin + begin * spec.dtype.itemsize)
            # NumPy's memory, because glibc may keep what torch's aligned allocation frees.
            found = torch.from_numpy(np.empty(end - begin, dtype=torch.empty(0, dtype=spec.dtype).numpy().dtype))
            if file.readinto(raw(found)) != found.nbytes:
                raise UserError(f"{self.path}: {name} cannot be read to its end")
        return found

    def check(self, expected: Mapping[str, Spec], what: str) -> None:
        """Raise a UserError that names the first tensor that is missing, unknown, or of another dtype or shape than
        `what` has."""
        for name, spec in expected.items():
            if name not in self.specs:
                raise UserError(f"{self.path}: it has no tensor {name}, which {what} has")
            found = self.specs[name]
            if (found.dtype, found.shape) != (spec.dtype, spec.shape):
                raise UserError(
                    f"{self.path}: {name} is {found.dtype} of shape {list(found.shape)}, {what} has {spec.dtype} of "
                    f"shape {list(spec.shape)}"
                )
        unknown = [name for name in self.specs if name not in expected]
        if unknown:
            raise UserError(f"{self.path}: it has a tensor {unknown[0]}, which {what} has not")


def checked_finite(tensor: Tensor, path: Path, name: str) -> Tensor:
    """A tensor of a file; a UserError where it holds a NaN or an infinity."""
    values = tensor.view(-1).numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UserError(f"{path}: {name} holds {values[bad[0]]} at element {bad[0]} of those read; it cannot be used")
    return tensor


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found


def _specs(header: dict[str, Any], begin: int, end: int | None) -> dict[str, Spec]:
    """The tensors of a header, checked: known dtypes, sizes that fit, one after another to the file's end, or, for who
    looks at damage, to any.
    """
    found: dict[str, Spec] = {}
    at, total = begin, 2**63 if end is None else end
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (first, last) = entry["shape"], entry["data_offsets"]
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} has the dtype {entry['dtype']!r}; known are {', '.join(DTYPES)}")
        numbers = [*shape, first, last]
        if not isinstance(shape, list) or any(type(n) is not int or not 0 <= n <= total for n in numbers):
            raise ValueError(f"{name} has the shape {shape!r} at {first!r} to {last!r}")
        spec = Spec(DTYPES[entry["dtype"]], tuple(shape), begin + first)
        if spec.begin != at or begin + last != at + spec.bytes or at + spec.bytes > total:
            raise ValueError(f"{name} does not lie where its shape and the tensor before it say")
        found[name], at = spec, at + spec.bytes
    if end is not None and at != total:
        raise ValueError(f"{total - at} bytes belong to no tensor")
    return found
