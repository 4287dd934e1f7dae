"""Checkpoints: safetensors files in canonical order, with a SHA-256 beside each, written whole or not at all.

A checkpoint holds every parameter by name and the optimizer's state as optimizer.<state>.<name>; no rank, thread or
path is in it. Its metadata say what it is of: step, recipe_id, link of the chain, and, for a reader, recipe, model,
vocabulary, numerics.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.files import remove_if_unfinished, sha256_of, write_bytes
from pipeline.base.tensors import Spec, TensorFile, raw, write_tensors

KEPT = 2  # rolling checkpoints, unless the execution says another number


@dataclass(frozen=True)
class Checkpoint:
    """A state after a step. tensors may be read, or gathered, as they are asked for; specs: what they are, if known
    before."""

    step: int
    recipe_id: str
    link: str  # of the chain's line of this step
    tensors: Mapping[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    specs: dict[str, Spec] | None = None


@dataclass(frozen=True)
class Stored(Checkpoint):
    """A checkpoint as a file has it."""

    tensors: TensorFile


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and little-endian bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    digest.update(raw(tensor))
    return digest.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name and digest of every tensor, by name."""
    lines = [f"{name} {tensor_digest(tensors[name])}\n" for name in sorted(tensors)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def save(path: Path, checkpoint: Checkpoint) -> str:
    """Write the file and then <file>.sha256 (in sha256sum's form); returns the SHA-256."""
    about = {"step": checkpoint.step, "recipe_id": checkpoint.recipe_id, "link": checkpoint.link} | checkpoint.about
    tensors = checkpoint.tensors
    specs = checkpoint.specs or {name: Spec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    digest = write_tensors(path, specs, tensors, about)
    write_bytes(sidecar(path), f"{digest}  {path.name}\n".encode())
    return digest


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def verify(path: Path) -> None:
    """Raise a UserError that says how a file is damaged."""
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a checkpoint in it, step_<step>.safetensors")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    if not sidecar(path).exists():
        raise UserError(
            f"{path}: its {sidecar(path).name} is missing, which says whether it is whole; "
            f"bring it too, or, if you trust the file, write it: sha256sum {path.name} > {sidecar(path).name}"
        )
    expected, found = sidecar(path).read_text(errors="replace")[:64], sha256_of(path)
    if expected != found:
        raise UserError(
            f"{path}: damaged ({path.stat().st_size} bytes): sha256 is {found}, it was written as {expected}; "
            "move it away and run again"
        )


def load(path: Path) -> Stored:
    """Open a checkpoint after checking its SHA-256, header and metadata; each tensor is read when it is asked for."""
    verify(path)
    return opened(path)


def opened(path: Path, whole: bool = True) -> Stored:
    """A checkpoint as it lies there, its header and metadata checked: for who looks for what is wrong with it.

    whole=False takes one that was cut off too, with the tensors that are whole.
    """
    file = TensorFile(path, whole)
    known = {"step": int, "recipe_id": str, "link": str}
    about = file.about if isinstance(file.about, dict) else {}
    for key, kind in known.items():
        if type(about.get(key)) is not kind:
            raise UserError(f"{path}: its metadata has {key} {about.get(key)!r}; expected as checkpoints have it")
    other = {key: value for key, value in about.items() if key not in known}
    return Stored(about["step"], about["recipe_id"], about["link"], file, other, file.specs)


class Rolling:
    """The last checkpoints of a segment under way, in a folder that only this state can ever use.

    keep: how many of the newest stay; major: those at its multiples stay for good, whatever their number (0: none).
    """

    def __init__(self, folder: Path, keep: int = KEPT, major: int = 0) -> None:
        self.folder, self.keep, self.major = folder, keep, major

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}.safetensors"

    def steps(self) -> list[int]:
        """Steps with a file, newest first."""
        found = (re.fullmatch(r"step_(\d+)\.safetensors", p.name) for p in self.folder.glob("step_*.safetensors"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def newest(self, after: int, until: int, check: Callable[[int], object], say: Callable[[str], None]) -> int:
        """The newest step in (after, until] that passes `check`, or -1; what a UserError says is wrong with one is
        said, and the one before is used."""
        for step in self.steps():
            if after < step <= until:
                try:
                    check(step)
                except UserError as error:
                    say(f"warning: {error}; using the one before")
                    continue
                return step
        return -1

    def _for_good(self, step: int) -> bool:
        return bool(self.major) and step % self.major == 0

    def prune(self) -> None:
        """Keep the newest, and the majors."""
        for step in [step for step in self.steps() if not self._for_good(step)][self.keep :]:
            self.remove(step)

    def chain_path(self, step: int) -> Path:
        return self.folder / f"chain_{step:06d}.tsv"

    def remove(self, step: int) -> None:
        for path in (self.path(step), sidecar(self.path(step)), self.chain_path(step)):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every file that a segment may have left here but the majors', those that a kill left unfinished
        too.
        """
        for path in self.folder.glob(".*.tmp"):
            remove_if_unfinished(path)
        for pattern in ("step_*", "chain_*.tsv"):
            for path in self.folder.glob(pattern):
                number = re.match(r"(?:step|chain)_(\d+)\.", path.name)
                if not (number and self._for_good(int(number[1]))):
                    path.unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()
