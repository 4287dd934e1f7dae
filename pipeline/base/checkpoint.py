"""Checkpoints: safetensors files in canonical order, with a SHA-256 beside each, written whole or not at all.

A checkpoint holds every parameter by name, and AdamW's moments as optimizer.m.<name> and optimizer.v.<name>; no rank, thread or
path is in it. The one metadata key is JSON, because safetensors writes several keys in random order.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.files import remove_if_unfinished, sha256_of, write_bytes

KEY = "samebits"
KEPT = 2  # rolling checkpoints


@dataclass(frozen=True)
class Checkpoint:
    step: int
    recipe_id: str
    link: str  # of the chain's line of this step
    tensors: dict[str, Tensor]


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and little-endian bytes."""
    head = f"{tensor.dtype} {list(tensor.shape)}\n".encode()
    return hashlib.sha256(head + tensor.contiguous().numpy().tobytes()).hexdigest()


def save(path: Path, checkpoint: Checkpoint) -> str:
    """Write the file and then <file>.sha256 (in sha256sum's form); returns the SHA-256."""
    about = {"step": checkpoint.step, "recipe_id": checkpoint.recipe_id, "link": checkpoint.link}
    content = safetensors.torch.save(checkpoint.tensors, {KEY: json.dumps(about, sort_keys=True)})
    write_bytes(path, content)
    digest = hashlib.sha256(content).hexdigest()
    write_bytes(sidecar(path), f"{digest}  {path.name}\n".encode())
    return digest


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def verify(path: Path) -> None:
    """Raise a UserError that says how a file is damaged."""
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if not sidecar(path).exists():
        raise UserError(f"{path}: its {sidecar(path).name} is missing, so it cannot be trusted; delete it")
    expected, found = sidecar(path).read_text(errors="replace")[:64], sha256_of(path)
    if expected != found:
        raise UserError(
            f"{path}: damaged ({path.stat().st_size} bytes): sha256 is {found}, it was written as {expected}; delete it "
            "and run again"
        )


def load(path: Path) -> Checkpoint:
    """Read a checkpoint after checking its SHA-256."""
    verify(path)
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {})[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Checkpoint(about["step"], about["recipe_id"], about["link"], tensors)


class Rolling:
    """The last checkpoints of a segment under way, in a folder that only this state can ever use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}.safetensors"

    def steps(self) -> list[int]:
        """Steps with a file, newest first."""
        found = (re.fullmatch(r"step_(\d+)\.safetensors", p.name) for p in self.folder.glob("step_*.safetensors"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def newest(self, after: int, until: int, check: Callable[[int], object]) -> int:
        """The newest step in (after, until] that passes `check`, or -1; what a UserError says is wrong with one is
        printed, and the one before is used."""
        for step in self.steps():
            if after < step <= until:
                try:
                    check(step)
                except UserError as error:
                    print(f"warning: {error}; using the one before", file=sys.stderr)
                    continue
                return step
        return -1

    def prune(self) -> None:
        """Keep the newest two."""
        for step in self.steps()[KEPT:]:
            self.remove(step)

    def chain_path(self, step: int) -> Path:
        return self.folder / f"chain_{step:06d}.tsv"

    def remove(self, step: int) -> None:
        for path in (self.path(step), sidecar(self.path(step)), self.chain_path(step)):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every file that a segment may have left here, those that a kill left unfinished too."""
        for path in self.folder.glob(".*.tmp"):
            remove_if_unfinished(path)
        for pattern in ("step_*", "chain_*.tsv"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()
