"""Documents to token ids: in parallel for every tokenizer, in order, a bounded amount at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.data.blocks import Block, Ready
from pipeline.data.shards import dtype_of
from pipeline.data.tokenizers import Tokenizer

AHEAD = 2  # blocks in flight per worker


class Encoded(NamedTuple):
    """Tokens of a block, where in them documents begin, and what the block says of its file."""

    tokens: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    weight: int
    ends: bool


_tokenizer: Tokenizer


def _start(tokenizer: Tokenizer) -> None:
    global _tokenizer
    _tokenizer = tokenizer


def _encode(block: Block) -> Encoded:
    """The tokens of a block; the separator, where the tokenizer has one, before each document."""
    dtype, separator = dtype_of(_tokenizer.vocab_size), _tokenizer.separator
    if isinstance(block, Ready):
        return Encoded(block.tokens, np.flatnonzero(block.tokens == separator), block.weight, block.ends)
    head = np.array([] if separator is None else [separator], dtype=dtype)
    parts: list[NDArray[Any]] = [head[:0]]
    starts: list[int] = []
    count = 0
    for first, text in block.pieces():
        if first:
            starts.append(count)
            parts.append(head)
            count += len(head)
        parts.append(_tokenizer.encode_array(text))
        count += len(parts[-1])
    tokens = np.concatenate(parts, dtype=dtype, casting="unsafe")
    return Encoded(tokens, np.array(starts, dtype=np.int64), block.weight, block.ends)


def encode(blocks: Iterable[Block], tokenizer: Tokenizer, threads: int) -> Iterator[Encoded]:
    """Tokens of blocks, in order; `threads` processes never change a bit."""
    waiting = iter(blocks)
    few = list(islice(waiting, 2))
    if threads == 1 or len(few) < 2:
        _start(tokenizer)
        yield from map(_encode, chain(few, waiting))
        return
    with ProcessPoolExecutor(threads, get_context("fork"), _start, (tokenizer,)) as pool:
        running: deque[Future[Any]] = deque()
        try:
            for block in chain(few, waiting):
                running.append(pool.submit(_encode, block))
                if len(running) > AHEAD * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise UserError("a process that encodes was killed, perhaps for its memory: give fewer --threads") from None
        finally:
            for future in running:
                future.cancel()
