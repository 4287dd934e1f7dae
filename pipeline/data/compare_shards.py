"""Prepared shards against those that somebody else made: equal, or the first shard, document and token that differ.

A pin file lists the other shards in order: validation, then training. Their hashes are enough to say that all are equal; to say which
token differs, the other shard must be at hand: in a folder, or, by its content, under $SAMEBITS_MIRROR.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.data.fetch import from_mirror
from pipeline.data.prepared import Prepared
from pipeline.data.shards import BLOCK, read_shard
from pipeline.data.tokenizers import load_tokenizer
from pipeline.recipe.paths import TRAIN_STARTS, VALIDATION, VALIDATION_STARTS
from pipeline.recipe.pins import PinnedFile, Pins

SHOWN = 12  # tokens of each side


def compare_shards(folder: Path, pins: Pins, against: Path | None) -> str:
    """What differs first between the shards in a folder and the pinned ones; "" if nothing does."""
    prepared = Prepared(folder)
    names = [VALIDATION, *sorted(n for n in prepared.digests if n.endswith(".bin") and n != VALIDATION)]
    for i, (name, pin) in enumerate(zip(names, pins.files, strict=False)):
        prepared.file(name)  # ours is what was recorded
        if prepared.digests[name] != pin.sha256:
            return _where(prepared, names[: i + 1], pin, _other(pin, against))
    if len(names) != len(pins.files):
        least = min(len(names), len(pins.files))
        return f"the first {least} shards are equal; {folder} has {len(names)}, the pin file lists {len(pins.files)}"
    return ""


def _other(pin: PinnedFile, against: Path | None) -> Path | None:
    """The other shard as a file, if it is at hand; in a folder it is taken as it is."""
    if against is None:
        return from_mirror(pin.sha256, pin.bytes, pin.name)
    found = [path for path in (against / pin.name, against / Path(pin.name).name) if path.is_file()]
    if not found:
        raise UserError(f"--against {against}: has no {pin.name}; give the folder of the other shards, or leave it out")
    return found[0]


def _where(prepared: Prepared, names: list[str], pin: PinnedFile, other: Path | None) -> str:
    name = names[-1]
    head = f"{name} differs from {pin.name}: sha256 {prepared.digests[name]}, pinned is {pin.sha256}"
    if other is None:
        return f"{head}. To see the token, bring that file and name its folder: --against FOLDER"
    mine, its = read_shard(prepared.folder / name), read_shard(other)
    at = first_difference(mine, its)
    if at is None:
        return f"the shard at {other} equals {name}, but it is not what is pinned ({pin.sha256}): a wrong copy"
    document, within = _document(prepared, names, at)
    tokenizer = load_tokenizer(prepared.folder)
    begin = max(at - SHOWN // 2, 0)

    def shown(tokens: NDArray[np.unsignedinteger]) -> str:
        part = tokens[begin : begin + SHOWN].tolist()
        return f"{part} {tokenizer.decode(t for t in part if t < tokenizer.vocab_size)!r}"

    values = [str(tokens[at]) if at < len(tokens) else "no more" for tokens in (mine, its)]
    return (
        f"{head}\ntoken {at} of the shard, token {within} of document {document} of the corpus (both from 0): "
        f"{values[0]} here, {values[1]} there\nfrom token {begin}, here:  {shown(mine)}\nfrom token {begin}, there: {shown(its)}"
    )


def first_difference(a: NDArray[np.unsignedinteger], b: NDArray[np.unsignedinteger]) -> int | None:
    """The first place where two rows of tokens differ, the end of the shorter included."""
    least = min(len(a), len(b))
    for begin in range(0, least, BLOCK):
        end = min(begin + BLOCK, least)
        differ = np.flatnonzero(a[begin:end] != b[begin:end])
        if len(differ):
            return begin + int(differ[0])
    return None if len(a) == len(b) else least


def _document(prepared: Prepared, names: list[str], at: int) -> tuple[int, int]:
    """The document of the corpus that a token of the last of these shards belongs to, and its place in it."""
    files = [VALIDATION_STARTS] if len(names) == 1 else [TRAIN_STARTS]
    lengths = [len(read_shard(prepared.folder / name)) for name in names[:-1]]
    first = len(np.load(prepared.file(VALIDATION_STARTS), mmap_mode="r")) if len(names) > 1 else 0
    starts = np.load(prepared.file(files[0]), mmap_mode="r")
    token = at + sum(lengths[1:])  # of the split
    number = int(np.searchsorted(starts, token, side="right"))
    if number:
        return first + number - 1, token - int(starts[number - 1])
    last = int(np.load(prepared.file(VALIDATION_STARTS), mmap_mode="r")[-1])  # begun in the validation split
    return first - 1, lengths[0] - last + token
