"""Reading documents: UTF-8 text, jsonl and parquet files, in the order of the file.

A line of jsonl ends at a line feed and nowhere else; lines count from 1, rows of a table from 0. A byte order mark is no text.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _decode(content: bytes, where: str, at: int = 0) -> str:
    """UTF-8 without its byte order mark; `at` is the offset of the content in its file."""
    if at == 0:
        if content.startswith(UTF16):
            raise UserError(f"{where}: begins with the byte order mark of UTF-16; convert it: iconv -f utf-16 -t utf-8")
        if content.startswith(codecs.BOM_UTF8):
            content, at = content[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte {content[error.start]:#04x} at offset {at + error.start} is not UTF-8; convert it, for "
            "example with iconv -t utf-8"
        ) from None


def documents_of(path: Path, kind: str, column: str) -> Iterator[str]:
    """The documents of a text (one), jsonl or parquet file, in the order of the file."""
    if kind == "text":
        yield _decode(path.read_bytes(), str(path))
    elif kind == "jsonl":
        for where, row in json_lines(path):
            yield text_of(row, column, where)
    else:
        yield from _parquet(path, column)


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each line stands, for messages, and the value in it; lines of white space hold none."""
    at = 0
    with open(path, "rb") as file:
        for number, content in enumerate(file, 1):
            where = f"{path}: line {number}"
            line = _decode(content, where, at)
            at += len(content)
            if not line.strip(" \t\r\n"):
                continue
            try:
                yield where, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{where} is not JSON: {error}") from None


def _parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet as parquet

    row = 0
    try:
        file = parquet.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise UserError(f"{path}: no column {column!r}; it has {file.schema_arrow.names}")
        for batch in file.iter_batches(columns=[column]):
            for text in _values(batch.column(0)):
                where = f"{path}: row {row}"
                if isinstance(text, UnicodeDecodeError):
                    raise UserError(f"{where}: column {column!r} is not UTF-8: {text}")
                yield text_of({column: text}, column, where)
                row += 1
    except (pyarrow.ArrowException, OSError) as error:
        what = "not a readable parquet file" if row == 0 else f"damaged after row {row - 1}"
        raise UserError(f"{path}: {what}: {error}") from None


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
