"""Token shards in llm.c's formats, so that its tools read them.

A shard is 256 int32 of header (magic, version, number of tokens, zeros), then the tokens, all little-endian: uint16 with magic
20240520, version 1, or, for a vocabulary beyond 65536, uint32 with magic 20240801, version 7 (llm.c, dev/data/data_common.py;
the first is what its llmc/dataloader.h reads).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cuda_ops.errors import UserError
from pipeline.base.checked import remember
from pipeline.base.files import atomic_write

HEADER_WORDS, MOST_TOKENS = 256, 2**31 - 1
FORMATS: dict[tuple[int, int], np.dtype[Any]] = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
BLOCK = 1 << 20  # bytes copied at a time
REMEDY = "python -m pipeline.prepare_text --recipe … makes it again"


class Written(NamedTuple):
    """What is recorded of a shard, so that nobody reads it through again."""

    sha256: str
    largest: int


def dtype_of(vocab_size: int) -> np.dtype[Any]:
    """The narrowest of the formats that holds every token of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


class Spool:
    """Numbers of one type on the disk, appended without knowing how many there will be; gone when closed."""

    def __init__(self, folder: Path, dtype: DTypeLike) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dtype, self.count = np.dtype(dtype), 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - close() closes it

    def append(self, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self.count += len(values)

    def blocks(self, begin: int, end: int) -> Iterator[NDArray[Any]]:
        """Numbers begin .. end - 1, a block at a time."""
        size = self.dtype.itemsize
        self._file.seek(begin * size)
        while begin < end:
            content = self._file.read(min(BLOCK // size, end - begin) * size)
            yield np.frombuffer(content, dtype=self.dtype)
            begin += len(content) // size

    def close(self) -> None:
        self._file.close()


def write_blocks(path: Path, head: bytes, blocks: Iterator[NDArray[Any]]) -> Written:
    """A head and the bytes of arrays of counts as one file."""
    digest, largest = hashlib.sha256(head), 0
    with atomic_write(path) as file:
        file.write(head)
        for block in blocks:
            content = block.tobytes()
            digest.update(content)
            file.write(content)
            largest = max(largest, int(block.max(initial=0)))
    remember(path, digest.hexdigest())
    return Written(digest.hexdigest(), largest)


def header(path: Path, count: int, dtype: np.dtype[Any]) -> bytes:
    if count > MOST_TOKENS:
        raise UserError(
            f"{path}: {count:,} tokens, a shard holds at most {MOST_TOKENS:,}: raise bits.data.train_shards"
        )
    (magic, version) = next(key for key, value in FORMATS.items() if value == dtype)
    words = np.zeros(HEADER_WORDS, dtype="<i4")
    words[:3] = magic, version, count
    return words.tobytes()


def write_shard(path: Path, tokens: NDArray[np.integer], vocab_size: int = 2**16) -> Written:
    """Write tokens, each in [0, vocab_size), as one shard."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise ValueError(f"{path}: tokens from {tokens.min()} to {tokens.max()} are outside [0, {vocab_size})")
    dtype = dtype_of(vocab_size)
    return write_blocks(path, header(path, len(tokens), dtype), iter([np.ascontiguousarray(tokens, dtype=dtype)]))


def cut(spool: Spool, paths: Sequence[Path]) -> list[Written]:
    """The tokens of a spool as shards, all of a length, the first ones longer by one token where it must be."""
    each, more = divmod(spool.count, len(paths))
    made, begin = [], 0
    for i, path in enumerate(paths):
        count = each + (i < more)
        made.append(write_blocks(path, header(path, count, spool.dtype), spool.blocks(begin, begin + count)))
        begin += count
    return made


def read_shard(path: Path) -> NDArray[np.unsignedinteger]:
    """The tokens of a shard, memory-mapped. A UserError says what is wrong with its shape."""
    if not path.exists():
        raise UserError(f"{path}: no such shard; {REMEDY}")
    size = path.stat().st_size
    if size < 4 * HEADER_WORDS:
        raise UserError(f"{path}: {size} bytes are less than a shard's header of 1024; {REMEDY}")
    words = np.fromfile(path, dtype="<i4", count=HEADER_WORDS)
    magic, version, count = (int(word) for word in words[:3])
    if (magic, version) not in FORMATS:
        allowed = " or ".join(f"magic {m} version {v}" for m, v in FORMATS)
        raise UserError(f"{path}: magic {magic} version {version}, expected {allowed}; {REMEDY}")
    dtype = FORMATS[magic, version]
    expected = 4 * HEADER_WORDS + dtype.itemsize * count
    if size != expected:
        raise UserError(f"{path}: {size} bytes, its header says {expected} ({count} tokens): truncated; {REMEDY}")
    if count == 0:  # nothing to map
        return np.zeros(0, dtype=dtype)
    tokens: NDArray[np.unsignedinteger] = np.memmap(path, dtype=dtype, mode="r", offset=4 * HEADER_WORDS)
    return tokens


class Shards:
    """Shards one after another, as if they were one row of tokens; none is read but where it is asked for.

    No file stays open: a map would hold one each, and a thousand shards are more than a process may have by default. Nor is
    more read than is asked for, as a map does around each place.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        shards = [(len(shard), shard.dtype) for shard in map(read_shard, paths)]
        self._lengths, self._dtypes = [length for length, _ in shards], [dtype for _, dtype in shards]
        self._seen = [_seen(path.stat()) for path in paths]
        self._ends = np.cumsum(self._lengths, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each shard."""
        return self._lengths

    def begin(self, shard: int) -> int:
        """Where a shard begins in the row."""
        return int(self._ends[shard]) - self._lengths[shard]

    def read(self, offset: int, count: int) -> NDArray[np.unsignedinteger]:
        """Tokens offset .. offset + count - 1, which may lie in several shards."""
        found = []
        at = int(np.searchsorted(self._ends, offset, side="right"))
        while count > 0:
            begin = offset - self.begin(at)
            part = self._part(at, begin, min(count, self._lengths[at] - begin))
            found.append(part)
            offset, count, at = offset + len(part), count - len(part), at + 1
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _part(self, shard: int, begin: int, count: int) -> NDArray[np.unsignedinteger]:
        path, dtype = self._paths[shard], self._dtypes[shard]
        try:
            with open(path, "rb", buffering=0) as file:
                whole = _seen(os.fstat(file.fileno())) == self._seen[shard]
                content = os.pread(file.fileno(), count * dtype.itemsize, 4 * HEADER_WORDS + begin * dtype.itemsize)
        except FileNotFoundError:
            whole = False
        if not whole or len(content) < count * dtype.itemsize:
            raise UserError(
                f"{path}: changed while it was in use; {REMEDY}, and what reads it goes on from its last checkpoint"
            )
        return np.frombuffer(content, dtype=dtype)


def _seen(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
