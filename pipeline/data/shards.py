"""Token shards in llm.c's format, so that its tools read them.

A shard is 256 int32 of header (magic 20240520, version 1, number of tokens, zeros), then the tokens as uint16, all
little-endian (llm.c, llmc/dataloader.h and dev/data/data_common.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.base.files import atomic_write

MAGIC, VERSION, HEADER_WORDS = 20240520, 1, 256
REMEDY = "delete it and run the preparation again"


def write_shard(path: Path, tokens: NDArray[np.integer]) -> None:
    """Write tokens, each in [0, 65536), as one shard."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**16:
        raise ValueError(f"{path}: tokens from {tokens.min()} to {tokens.max()} do not fit uint16")
    header = np.zeros(HEADER_WORDS, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    with atomic_write(path) as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(tokens, dtype="<u2").tobytes())


def read_shard(path: Path, vocab_size: int | None = None) -> NDArray[np.uint16]:
    """The tokens of a shard, memory-mapped. A UserError says what is wrong with it."""
    if not path.exists():
        raise UserError(f"{path}: no such shard; run python -m pipeline.prepare_text")
    size = path.stat().st_size
    if size < 4 * HEADER_WORDS:
        raise UserError(f"{path}: {size} bytes are less than a shard's header of 1024; {REMEDY}")
    header = np.fromfile(path, dtype="<i4", count=HEADER_WORDS)
    if (header[0], header[1]) != (MAGIC, VERSION):
        raise UserError(f"{path}: magic {header[0]} version {header[1]}, expected {MAGIC} version {VERSION}; {REMEDY}")
    expected = 4 * HEADER_WORDS + 2 * int(header[2])
    if size != expected:
        raise UserError(f"{path}: {size} bytes, its header says {expected} ({header[2]} tokens): truncated; {REMEDY}")
    tokens: NDArray[np.uint16] = np.memmap(path, dtype="<u2", mode="r", offset=4 * HEADER_WORDS)
    if vocab_size is not None and len(tokens) and int(tokens.max()) >= vocab_size:
        at = int(np.argmax(tokens >= vocab_size))
        raise UserError(f"{path}: token {tokens[at]} at {at} is outside the vocabulary of {vocab_size}; {REMEDY}")
    return tokens
