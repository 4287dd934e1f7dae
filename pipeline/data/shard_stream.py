"""A stream of tokens into llm.c's shards, that goes on after a kill at the file of the corpus where it was.

llm.c (dev/data/fineweb.py): every document is the separator and its tokens; all tokens in a row are cut into shards of one length, the
last shorter, wherever a document may be; the first shard is the validation split. Shards in the making lie in unfinished/, with a
journal that says, at the end of each file of the corpus, what of them is sound.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError, refusal
from pipeline.base.checked import checked, remember
from pipeline.base.files import write_json
from pipeline.data.encode import Encoded
from pipeline.data.shards import BLOCK, HEADER_WORDS, Written, header, write_blocks

HEAD = 4 * HEADER_WORDS
JOURNAL, STARTS, LOCK = "journal.json", "starts.i8", "lock"


class Journal(TypedDict):
    """journal.json: what of the shards in the making is sound; closed: those that are whole."""

    key: str
    finished: bool
    closed: list[Written]
    files: int  # of the corpus, that are in
    tokens: int
    documents: int


class ShardStream:
    """Tokens in order into shards of `each`; key: what shapes them, so that a journal of another preparation is not taken up.

    files: how many files of the corpus are in; tokens, documents: how many are.
    """

    def __init__(self, out: Path, dtype: np.dtype[Any], each: int, key: str) -> None:
        self.out, self.folder, self.dtype, self.each, self.key = out, out / "unfinished", dtype, each, key
        self.files = self.tokens = self.documents = 0
        self._closed: list[Written] = []
        self._file: BinaryIO | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"{self.folder}: another process prepares these shards; wait for it or end it"
                ) from None
        if not self._resume():
            for path in self.folder.iterdir():
                if path.name != LOCK:
                    path.unlink()
            self.files = self.tokens = self.documents = 0
            self._closed = []
        self._starts = open(self.folder / STARTS, "ab")  # noqa: SIM115 - close() closes it

    # ---------------------------------------------------------------- what was there

    def _resume(self) -> bool:
        """Take up what a journal of the same preparation describes; False if there is none, or not all of it is there."""
        try:
            journal: Journal = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
            if journal["key"] != self.key:
                return False
            self.files, self.tokens, self.documents = journal["files"], journal["tokens"], journal["documents"]
            self._closed = [Written(*shard) for shard in journal["closed"]]
            os.truncate(self.folder / STARTS, 8 * self.documents)
            rest = self.tokens - self.each * len(self._closed)
            if journal["finished"]:
                return True
            for i in range(len(self._closed)):
                if self._shard(i).stat().st_size != self._bytes(self.each):
                    return False
            if rest:
                path = self._shard(len(self._closed))
                if path.stat().st_size < self._bytes(rest):
                    return False
                os.truncate(path, self._bytes(rest))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def _shard(self, i: int) -> Path:
        return self.folder / f"{i:06d}.bin"

    def _bytes(self, tokens: int) -> int:
        return HEAD + tokens * self.dtype.itemsize

    # ---------------------------------------------------------------- writing

    def append(self, encoded: Encoded) -> None:
        """The tokens of the next block of the corpus."""
        with self._messages():
            self._starts.write((encoded.starts + self.tokens).astype("<i8").tobytes())
            self.documents += len(encoded.starts)
            rest = encoded.tokens
            while len(rest):
                at = self.tokens - self.each * len(self._closed)
                file = self._open(at)
                part = rest[: self.each - at]
                file.write(part.astype(self.dtype, copy=False).tobytes())
                self.tokens += len(part)
                rest = rest[len(part) :]
                if at + len(part) == self.each:
                    self._close(self.each)
            if encoded.ends:
                self.files += 1
                self._note()

    def _open(self, at: int) -> BinaryIO:
        if self._file is None:
            path = self._shard(len(self._closed))
            self._file = open(path, "r+b" if at else "wb")  # noqa: SIM115 - _close() closes it
            self._file.seek(self._bytes(at))
        return self._file

    def _close(self, tokens: int) -> None:
        """The shard that is being written has so many tokens and gets no more."""
        assert self._file
        path = self._shard(len(self._closed))
        self._file.seek(0)
        self._file.write(header(path, tokens, self.dtype))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._closed.append(described(path, self.dtype))

    def _note(self, finished: bool = False) -> None:
        for file in (self._file, self._starts):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
        journal: Journal = {
            "key": self.key, "finished": finished, "closed": self._closed,
            "files": self.files, "tokens": self.tokens, "documents": self.documents,
        }  # fmt: skip
        write_json(self.folder / JOURNAL, journal)

    @contextmanager
    def _messages(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            words = refusal(error, self.folder)
            if words is None:
                raise
            with suppress(OSError):  # what was in the buffer could not be written, and is not needed
                if self._file:
                    self._file.close()
            self._file = None
            raise UserError(
                f"{words}. Of the shards, {self.files} files of the corpus are kept, and the "
                "same command goes on after them"
            ) from None

    # ---------------------------------------------------------------- the end

    def finish(self, names: list[str], starts: tuple[str, str]) -> dict[str, Written]:
        """Put the shards and the two files of document starts (validation, training) in their place, by these names."""
        with self._messages():
            rest = self.tokens - self.each * len(self._closed)
            if rest > 0:  # none of it open, where an earlier process did all files
                self._open(rest)
                self._close(rest)
            if len(self._closed) != len(names):
                raise UserError(
                    f"{self.out}: the corpus has {self.tokens:,} tokens, so with split.tokens {self.each} it makes "
                    f"{len(self._closed) - 1} training shards, not {len(names) - 1}: "
                    + (
                        f"set bits.data.train_shards to {len(self._closed) - 1}; what is tokenised is kept"
                        if len(self._closed) > 1
                        else "the first is for validation and nothing is left to train on: lower split.tokens"
                    )
                )
            self._note(finished=True)
            made = {}
            for i, (name, written) in enumerate(zip(names, self._closed, strict=True)):
                if self._shard(i).exists():
                    os.replace(self._shard(i), self.out / name)
                    remember(self.out / name, written.sha256)
                checked(self.out / name, written.sha256, f"delete {self.folder} and begin again")
                made[name] = written
            self._starts.close()
            all_starts: NDArray[np.int64] = np.zeros(0, dtype="<i8")
            if self.documents:
                all_starts = np.memmap(self.folder / STARTS, dtype="<i8", mode="r", shape=(self.documents,))
            at = int(np.searchsorted(all_starts, self.each))
            for name, part, less in ((starts[0], all_starts[:at], 0), (starts[1], all_starts[at:], self.each)):
                made[name] = write_blocks(self.out / name, npy_head(len(part)), _moved(part, less))
        return made

    def __enter__(self) -> ShardStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Let go; where all went well, the record of the shards is written and nothing here is needed any more."""
        for file in (self._file, self._starts):
            with suppress(OSError):  # of a full disk: what it lacks is not in the journal
                if file:
                    file.close()
        if kind is None:
            shutil.rmtree(self.folder)
        os.close(self._lock)


def npy_head(count: int) -> bytes:
    """The head of a .npy file of so many int64."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
    return head.getvalue()


def _moved(values: NDArray[np.int64], less: int) -> Iterator[NDArray[np.int64]]:
    for begin in range(0, len(values), BLOCK // 8):
        yield np.ascontiguousarray(values[begin : begin + BLOCK // 8] - less, dtype="<i8")


def described(path: Path, dtype: np.dtype[Any]) -> Written:
    """Digest and largest token of a shard, by reading it once."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
        digest, largest = hashlib.sha256(head), 0
        while content := file.read(BLOCK):
            digest.update(content)
            largest = max(largest, int(np.frombuffer(content, dtype=dtype).max()))
    return Written(digest.hexdigest(), largest)
