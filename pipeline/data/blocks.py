"""What travels to a process that encodes: some documents of a corpus as they were read, decoded there.

A block is small (about TASK bytes), so a bounded amount is under way, and one is read faster than it is encoded: one process reads,
decompresses and writes, in order, and the others do the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError

PIECE = 1 << 16  # characters after which a text is cut where it may be
TASK = 1 << 18  # characters or bytes of a block
# No word of any tokenizer here spans this place: a space or line feed belongs to what follows, never to text before it.
BETWEEN_WORDS = re.compile(r"(?<=\S)[ \n]")

Piece = tuple[bool, str]  # whether it begins a document, text


class Block(Protocol):
    """weight: bytes of the file behind it, for progress; ends: whether it is the last of its file."""

    weight: int
    ends: bool

    def pieces(self) -> Iterator[Piece]:
        """The texts, each in pieces whose tokens, one after another, are the text's."""
        ...


def pieces(text: str, begin: int = 0, end: int | None = None) -> Iterator[str]:
    """text[begin:end] in pieces whose tokens, one after another, are the text's; long only where no word ends."""
    end = len(text) if end is None else end
    while begin < end:
        found = BETWEEN_WORDS.search(text, begin + PIECE, end)
        cut = found.start() if found else end
        yield text[begin:cut]
        begin = cut


def marked(texts: Iterable[Iterable[str]]) -> Iterator[Piece]:
    """Pieces of documents, the first of each marked; an empty document is one empty piece."""
    for parts in texts:
        first = True
        for part in parts:
            yield first, part
            first = False
        if first:
            yield True, ""


@dataclass
class Pieces:
    """Pieces that were cut before: of a text that is longer than a block."""

    group: list[Piece]
    weight: int = 0
    ends: bool = False

    def pieces(self) -> Iterator[Piece]:
        return iter(self.group)


@dataclass
class Lines:
    """Whole lines of a jsonl file: the first has the number `first`, from 1, and begins at byte `at`."""

    path: str
    column: str
    first: int
    at: int
    content: bytes
    weight: int = 0
    ends: bool = False

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Where each line stands, for messages, and the value in it; lines of white space hold none."""
        at = self.at
        for number, content in enumerate(self.content.split(b"\n"), self.first):
            where = f"{self.path}: line {number}"
            line = decode(content, where, at)
            at += len(content) + 1
            if not line.strip(" \t\r"):
                continue
            try:
                yield where, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{where} is not JSON: {error}") from None

    def texts(self) -> Iterator[str]:
        for where, row in self.rows():
            yield text_of(row, self.column, where)

    def pieces(self) -> Iterator[Piece]:
        return marked(pieces(text) for text in self.texts())


@dataclass
class Rows:
    """Rows of a parquet file from number `first` on, from 0: their column, in Arrow's arrays."""

    path: str
    column: str
    first: int
    arrays: list[Any]
    weight: int = 0
    ends: bool = False

    def texts(self) -> Iterator[str]:
        row = self.first
        for array in self.arrays:
            for text in _values(array):
                where = f"{self.path}: row {row}"
                if isinstance(text, UnicodeDecodeError):
                    raise UserError(f"{where}: column {self.column!r} is not UTF-8: {text}")
                yield text_of({self.column: text}, self.column, where)
                row += 1

    def pieces(self) -> Iterator[Piece]:
        return marked(pieces(text) for text in self.texts())


@dataclass
class Ready:
    """Tokens of a shard that somebody else made."""

    tokens: NDArray[np.unsignedinteger]
    weight: int = 0
    ends: bool = False

    def pieces(self) -> Iterator[Piece]:
        raise AssertionError("tokens are no text")


def _values(column: Any) -> Iterator[Any]:
    """The values of an Arrow array; where one is no UTF-8, the error stands for it."""
    try:
        yield from column.to_pylist()
    except UnicodeDecodeError:  # before the first was given: one by one, to find it
        for value in column:
            try:
                yield value.as_py()
            except UnicodeDecodeError as error:
                yield error


def decode(content: bytes, where: str, at: int = 0) -> str:
    """UTF-8 without its byte order mark; `at` is the offset of the content in its file."""
    if at == 0:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{where}: begins with the byte order mark of UTF-16; convert it: iconv -f utf-16 -t utf-8")
        if content.startswith(b"\xef\xbb\xbf"):
            content, at = content[3:], 3
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte {content[error.start]:#04x} at offset {at + error.start} is not UTF-8; convert it, for "
            "example with iconv -t utf-8"
        ) from None


def text_of(row: Any, column: str, where: str) -> str:
    """The text in a column of a row; where: file and row, for messages."""
    if not isinstance(row, dict) or column not in row:
        names = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where}: no column {column!r}; it has {names}")
    text = row[column]
    if not isinstance(text, str):
        held = "null" if text is None else type(text).__name__
        raise UserError(f"{where}: column {column!r} holds {held}, expected text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: column {column!r} holds half a surrogate pair, {text[error.start]!r}, at character "
            f"{error.start}: no text has it; mend or remove the row"
        ) from None
    return text
