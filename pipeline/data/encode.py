"""Documents to token ids: in parallel for every tokenizer, in order, a bounded amount at a time."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.data.shards import dtype_of
from pipeline.data.tokenizers import Tokenizer

PIECE = 1 << 16  # characters after which a text is cut where it may be
TASK = 1 << 18  # characters that a worker encodes at a time
AHEAD = 2  # tasks in flight per worker
# No word of any tokenizer here spans this place: a space or line feed belongs to what follows, never to text before it.
BETWEEN_WORDS = re.compile(r"(?<=\S)[ \n]")

Piece = tuple[bool, str]  # whether it begins a document, text
Encoded = tuple[NDArray[np.unsignedinteger], list[int]]  # tokens, and where in them documents begin


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


def tasks(parts: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces in groups of about TASK characters."""
    group: list[Piece] = []
    size = 0
    for part in parts:
        group.append(part)
        size += len(part[1]) + 1
        if size >= TASK:
            yield group
            group, size = [], 0
    if group:
        yield group


_tokenizer: Tokenizer


def _start(tokenizer: Tokenizer) -> None:
    global _tokenizer
    _tokenizer = tokenizer


def _encode(group: list[Piece]) -> Encoded:
    """The tokens of some pieces; the separator, where the tokenizer has one, before each document."""
    head = [] if _tokenizer.separator is None else [_tokenizer.separator]
    ids: list[int] = []
    starts: list[int] = []
    for first, text in group:
        if first:
            starts.append(len(ids))
            ids += head
        ids += _tokenizer.encode(text)
    return np.array(ids, dtype=dtype_of(_tokenizer.vocab_size)), starts


def encode(documents: Iterable[Iterable[str]], tokenizer: Tokenizer, threads: int) -> Iterator[Encoded]:
    """Tokens of documents, each given as its pieces, in order; `threads` processes never change a bit."""
    waiting = tasks(marked(documents))
    few = list(islice(waiting, 2))
    if threads == 1 or len(few) < 2:
        _start(tokenizer)
        yield from map(_encode, chain(few, waiting))
        return
    with ProcessPoolExecutor(threads, get_context("fork"), _start, (tokenizer,)) as pool:
        running: deque[Future[Any]] = deque()
        try:
            for group in chain(few, waiting):
                running.append(pool.submit(_encode, group))
                if len(running) > AHEAD * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise UserError("a process that encodes was killed, perhaps for its memory: give fewer --threads") from None
        finally:
            for future in running:
                future.cancel()
