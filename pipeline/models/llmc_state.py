"""A run of llm.c under way: model_<step>.bin and, of each of its processes, state_<step>_<rank>.bin (train_gpt2.cu, save_state).

A state is 256 int32 (magic 20240527, version 1, processes, rank, whether there are master weights, whether the loader
shuffles; at 10 the step, at 20 to 33 random numbers and the loader's place), then fp32 arrays without gaps: the moments m and
v and the master weights, each of the rank's part of the parameters. Under ZeRO stage 1 that is part `rank` of every tensor of
every layer, in the order of the model's file; under stage 0 every rank has all. A shuffling loader's lists follow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.tensors import Spec, checked_finite
from pipeline.models.llmc import HEADER, STATE, FromLlmc, names

VERSION, TWISTER = 1, 2520  # of a state; bytes of llm.c's mt19937_state
MOMENTS = ("optimizer.m.", "optimizer.v.")  # our names of the arrays m and v
STEP = 10  # where the header has it


class Header:
    """The header of a state file; a UserError where it is none, or not of this process of this step."""

    def __init__(self, path: Path, rank: int, ranks: int, step: int) -> None:
        with open(path, "rb") as file:
            words = np.frombuffer(file.read(HEADER), dtype="<i4")
        if len(words) != HEADER // 4 or words[0] != STATE:
            raise UserError(f"{path}: no training state of llm.c (expected {HEADER} bytes that begin with {STATE})")
        if words[1] != VERSION:
            raise UserError(f"{path}: version {words[1]} of llm.c's training state; read is {VERSION}")
        if words[2] != ranks:
            raise UserError(
                f"{path}: a run of {words[2]} processes, and {ranks} of their files lie here: bring the state_*.bin of all"
            )
        if words[3] != rank:
            raise UserError(f"{path}: of rank {words[3]}, its name says {rank}")
        if words[STEP] != step:
            raise UserError(f"{path}: of step {words[STEP]}, its name says {step}")
        self.master, self.shuffled = bool(words[4]), bool(words[5])


class FromLlmcState(Mapping[str, Tensor]):
    """Weights and moments of a run under way by the names of our checkpoints, fp32; the weights are the master weights where
    there are some. step: how many steps are done. specs: of every tensor."""

    def __init__(self, model: FromLlmc) -> None:
        self.model, self.path = model, model.path
        match = re.fullmatch(r"model_(\d+)\.bin", self.path.name)
        if not match:
            raise UserError(
                f"{self.path}: llm.c names the model of a run model_<step>.bin, with state_<step>_<rank>.bin beside it"
            )
        self.step = int(match[1])
        self.files = sorted(self.path.parent.glob(f"state_{match[1]}_*.bin"))
        if not self.files:
            raise UserError(f"{self.path}: no state_{match[1]}_<rank>.bin beside it: bring them, or leave --state out")
        ranks = len(self.files)
        headers = [Header(path, rank, ranks, self.step) for rank, path in enumerate(self.files)]
        self.master = headers[0].master
        if any(header.master != self.master for header in headers):
            raise UserError(
                f"{self.path}: some of its state files have master weights, others have none: not of one run"
            )
        self._sizes = {name: math.prod(model.shapes[name]) for name in names(model.config.layers)}  # as files have them
        total, arrays = sum(self._sizes.values()), 2 + self.master
        divides = all(size % ranks == 0 for size in self._sizes.values())
        wrong: list[Path] = []
        for self._parts in (ranks, 1) if divides else (1,):  # ZeRO stage 1, stage 0
            end = HEADER + 4 * arrays * (total // self._parts)
            shuffled = {path: header.shuffled for path, header in zip(self.files, headers, strict=True)}
            failed = [path for path in self.files if not _ends(path, end, shuffled[path])]
            if not failed:
                break
            wrong = min(wrong or failed, failed, key=len)
        else:
            raise UserError(
                f"{wrong[0]}: {wrong[0].stat().st_size} bytes are not {arrays} arrays of {total} parameters, nor of "
                f"1/{ranks} of them: cut off, or of another model than {self.path.name}"
            )
        self.specs = {
            prefix + name: Spec(torch.float32, tuple(shape))
            for prefix in ("", *MOMENTS)
            for name, shape in model.shapes.items()
        }

    def __len__(self) -> int:
        return len(self.specs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __getitem__(self, key: str) -> Tensor:
        prefix = next((prefix for prefix in MOMENTS if key.startswith(prefix)), "")
        if not prefix and not self.master:
            return checked_finite(self.model[key], self.path, key)
        name = key.removeprefix(prefix)
        array = MOMENTS.index(prefix) if prefix else len(MOMENTS)
        found = self._array(array, name)
        if prefix == MOMENTS[1] and (found < 0).any():
            raise UserError(f"{self.files[0]}: the second moment of {name} holds {found.min().item()}: damaged")
        return found.view(self.specs[key].shape)

    def _array(self, array: int, name: str) -> Tensor:
        """A tensor of one of the arrays, put together from the ranks' parts."""
        whole, before = sum(self._sizes.values()), 0
        for other, size in self._sizes.items():
            if other == name:
                break
            before += size
        count = self._sizes[name] // self._parts
        at = HEADER + 4 * (array * (whole // self._parts) + before // self._parts)
        parts = [np.fromfile(path, dtype="<f4", count=count, offset=at) for path in self.files[: self._parts]]
        for path, part in zip(self.files, parts, strict=False):
            checked_finite(torch.from_numpy(part), path, name)
        return torch.from_numpy(np.concatenate(parts))


def _ends(path: Path, end: int, shuffled: bool) -> bool:
    """Whether a file ends where its arrays do, but for the lists of a loader that shuffles."""
    size = path.stat().st_size
    if not shuffled:
        return size == end
    for _ in range(2):  # order of the shards, of the samples in the one at hand: a count of 8 bytes, int32 each
        with open(path, "rb") as file:
            file.seek(end)
            end += 8 + 4 * int.from_bytes(file.read(8), "little")
    return size == end + TWISTER
