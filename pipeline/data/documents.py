"""Reading documents: UTF-8 text, jsonl and parquet files, in the order of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError


def read_text(path: Path) -> str:
    """A UTF-8 file as it is, line ends included."""
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {content[error.start]:#04x} at offset {error.start} is not UTF-8; convert it, for example "
            f"with iconv -t utf-8"
        ) from None


def documents_of(path: Path, kind: str, column: str) -> Iterator[str]:
    """The documents of a text (one), jsonl or parquet file, in the order of the file."""
    if kind == "text":
        yield read_text(path)
    elif kind == "jsonl":
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if not line.strip():
                continue
            try:
                yield text_of(json.loads(line), column, f"{path}: line {number}")
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number} is not JSON: {error}") from None
    else:
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            file = parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path}: not a parquet file: {error}") from None
        if column not in file.schema_arrow.names:
            raise UserError(f"{path}: no column {column!r}; it has {file.schema_arrow.names}")
        for batch in file.iter_batches(columns=[column]):
            for i, value in enumerate(batch.column(0).to_pylist()):
                yield text_of({column: value}, column, f"{path}: row {i}")


def text_of(row: Any, column: str, where: str) -> str:
    if not isinstance(row, dict) or column not in row:
        names = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where}: no column {column!r}; it has {names}")
    if not isinstance(row[column], str):
        raise UserError(f"{where}: column {column!r} holds {type(row[column]).__name__}, expected text")
    return str(row[column])
