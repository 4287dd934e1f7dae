"""Reading documents: UTF-8 text, jsonl and parquet files, and ready shards of tokens, in the order of the file.

A line of jsonl ends at a line feed and nowhere else; lines count from 1, rows of a table from 0. A byte order mark is no text.
Text and jsonl may be packed (.gz, .zst). A file is read a block at a time, whatever the size of its row groups.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from cuda_ops.errors import UserError
from pipeline.data import blocks
from pipeline.data.blocks import Block, Lines, Pieces, Ready, Rows, decode, marked, pieces
from pipeline.data.shards import read_shard

ROWS = 64  # of a table read at a time


def documents_of(path: Path, kind: str, column: str) -> Iterator[str]:
    """The documents of a text (one), jsonl or parquet file, in the order of the file."""
    if kind == "text":
        yield _text(path)
        return
    for block in blocks_of(path, kind, column):
        if isinstance(block, Lines | Rows):
            yield from block.texts()


def blocks_of(path: Path, kind: str, column: str) -> Iterator[Block]:
    """The documents of a file in blocks; the weights of them all are the bytes of the file."""
    if kind == "text":
        yield from tasks(marked([pieces(_text(path))]), path.stat().st_size)
    elif kind == "jsonl":
        yield from _line_blocks(path, column)
    elif kind == "shard":
        tokens = read_shard(path)
        for begin in range(0, len(tokens), blocks.TASK):
            part = tokens[begin : begin + blocks.TASK]
            yield Ready(part.copy(), part.nbytes)
    else:
        yield from _row_blocks(path, column)


def tasks(parts: Iterator[blocks.Piece], weight: int = 0) -> Iterator[Pieces]:
    """Pieces in blocks; the first has the weight."""
    group: list[blocks.Piece] = []
    size = 0
    for part in parts:
        group.append(part)
        size += len(part[1]) + 1
        if size >= blocks.TASK:
            yield Pieces(group, weight)
            group, size, weight = [], 0, 0
    if group:
        yield Pieces(group, weight)


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each line stands, for messages, and the value in it; lines of white space hold none."""
    for block in _line_blocks(path, ""):
        yield from block.rows()


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], Any]]:
    """A file as it lies, and its content, unpacked where it is packed."""
    with open(path, "rb") as raw, ExitStack() as stack:
        if path.suffix == ".gz":
            import gzip

            yield raw, stack.enter_context(gzip.GzipFile(fileobj=raw))
        elif path.suffix == ".zst":
            import io

            import pyarrow

            stream = stack.enter_context(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd"))
            yield raw, stack.enter_context(io.BufferedReader(stream))
        else:
            yield raw, raw


def _packed_errors() -> tuple[type[Exception], ...]:
    return EOFError, zlib.error, OSError


def _text(path: Path) -> str:
    with opened(path) as (_, file):
        try:
            return decode(file.read(), str(path))
        except _packed_errors() as error:
            raise UserError(f"{path}: damaged: {error}; bring it again") from None


def _line_blocks(path: Path, column: str) -> Iterator[Lines]:
    number, at, seen = 1, 0, 0
    with opened(path) as (raw, file):
        try:
            while content := file.read(blocks.TASK):
                content += file.readline()
                place = raw.tell()
                yield Lines(str(path), column, number, at, content.removesuffix(b"\n"), place - seen)
                number, at, seen = number + content.count(b"\n"), at + len(content), place
        except _packed_errors() as error:
            raise UserError(f"{path}: damaged after line {number - 1}: {error}; bring it again") from None


def _row_blocks(path: Path, column: str) -> Iterator[Rows]:
    import pyarrow
    import pyarrow.parquet as parquet

    row = given = 0
    try:
        # A row group is not held whole: its pages are decoded as they are read.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            check_column(file.schema_arrow, column, path)
            total, weight = file.metadata.num_rows, path.stat().st_size
            waiting: list[Any] = []
            size = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=[column], use_threads=False):
                waiting.append(batch.column(0))
                size += batch.nbytes
                row += len(batch)
                if size >= blocks.TASK:
                    begin, done = row - sum(map(len, waiting)), weight * row // total
                    yield Rows(str(path), column, begin, waiting, done - given)
                    waiting, size, given = [], 0, done
            if waiting:
                yield Rows(str(path), column, row - sum(map(len, waiting)), waiting, weight - given)
    except (pyarrow.ArrowException, OSError) as error:
        what = "not a readable parquet file" if row == 0 else f"damaged after row {row - 1}"
        raise UserError(f"{path}: {what}: {error}; bring it again") from None


def check_column(schema: Any, column: str, path: Path) -> None:
    """Refuse a table without the column, or with one that holds no text."""
    import pyarrow

    if column not in schema.names:
        raise UserError(f"{path}: no column {column!r}; it has {schema.names}; name one by column in the recipe")
    kind = schema.field(column).type
    text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view, pyarrow.types.is_null)
    held = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not any(is_text(held) for is_text in text):
        raise UserError(
            f"{path}: column {column!r} holds {kind}, expected string; name another by column in the recipe"
        )


def count_of(path: Path, kind: str, column: str) -> int:
    """How many documents a file has; of a table by its footer, of lines by reading them."""
    if kind == "text":
        return 1
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            with parquet.ParquetFile(path) as file:
                check_column(file.schema_arrow, column, path)
                return int(file.metadata.num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable parquet file: {error}; bring it again") from None
    if kind == "jsonl":
        return sum(1 for block in _line_blocks(path, column) for line in block.content.split(b"\n") if line.strip())
    return 0
