"""Text to tokens and back: characters, a byte-level BPE of our own, and GPT-2's.

Each is fully described by a JSON value (tokenizer.json), so that what a shard was made with can be read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.base.files import sha256_of
from pipeline.data.bpe import FIRST, LONG, count_words, learn, merge_word, words_of
from pipeline.data.prepared import Prepared
from pipeline.recipe.paths import GPT2_BPE, TOKENIZER, VOCABULARY

if TYPE_CHECKING:
    from pipeline.data.contents import Characters, Gpt2Files, Merges

END_OF_TEXT = "<|endoftext|>"
MOST_CACHED = 1 << 16  # words whose tokens are remembered


class Tokenizer(Protocol):
    """separator: the token that starts every document, or None."""

    vocab_size: int
    separator: int | None

    def encode(self, text: str) -> list[int]: ...
    def encode_array(self, text: str) -> NDArray[np.unsignedinteger]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def bytes_of(self, token: int) -> bytes: ...  # UTF-8, of a part of a character too
    def describe(self) -> Characters | Merges | Gpt2Files: ...


class CharTokenizer:
    """One token per Unicode code point of the corpus, numbered in code point order."""

    separator: int | None = None

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.vocab_size = len(characters)
        self._ids = {character: i for i, character in enumerate(characters)}

    @classmethod
    def train(cls, texts: Iterable[str]) -> CharTokenizer:
        return cls("".join(sorted(set().union(*texts))))

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise UserError(
                f"character {error.args[0]!r} is not in the corpus; it knows {self.vocab_size}: {self.characters!r}"
            ) from None

    def encode_array(self, text: str) -> NDArray[np.unsignedinteger]:
        return np.array(self.encode(text), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.characters[i] for i in ids)

    def bytes_of(self, token: int) -> bytes:
        return self.characters[token].encode()

    def describe(self) -> Characters:
        return {"kind": "char", "characters": self.characters}


class BpeTokenizer:
    """Byte-level BPE of our own (pipeline/data/bpe.py)."""

    separator: int | None = 256

    def __init__(self, merges: list[tuple[int, int]]) -> None:
        self.merges = merges
        self.vocab_size = FIRST + len(merges)
        self._ranks = {pair: FIRST + i for i, pair in enumerate(merges)}
        self._bytes = [bytes([i]) for i in range(256)] + [b""]
        for left, right in merges:
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self._cache: dict[bytes, list[int]] = {}

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
        """Merge the most frequent pair until vocab_size; of equally frequent ones the first by bytes."""
        return cls(learn(count_words(texts), vocab_size - FIRST))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for words in words_of(text.encode()):
            for word in words:
                known = self._cache.get(word)
                if known is None:
                    known = merge_word(word, self._ranks)
                    if len(word) < LONG and len(self._cache) < MOST_CACHED:
                        self._cache[word] = known
                ids += known
        return ids

    def encode_array(self, text: str) -> NDArray[np.unsignedinteger]:
        return np.array(self.encode(text), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.bytes_of, ids)).decode(errors="replace")

    def bytes_of(self, token: int) -> bytes:
        return END_OF_TEXT.encode() if token == self.separator else self._bytes[token]

    def describe(self) -> Merges:
        return {"kind": "bpe", "merges": [list(pair) for pair in self.merges]}


# GPT-2's splitting pattern, in the possessive form that tiktoken uses.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class Gpt2Tokenizer:
    """GPT-2's encoding by tiktoken, over vocabulary files that the caller has verified."""

    separator: int | None = 50256
    vocab_size = 50257

    def __init__(self, folder: Path) -> None:
        import tiktoken

        self.files = {name: sha256_of(folder / name) for name in VOCABULARY}
        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=GPT2_PATTERN,
            mergeable_ranks=_gpt2_ranks(folder),
            special_tokens={END_OF_TEXT: 50256},
            explicit_n_vocab=50257,
        )

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def encode_array(self, text: str) -> NDArray[np.unsignedinteger]:
        """encode_ordinary without a Python list: half the time beside the splitting itself."""
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of text that each token stands for; the separator for none."""
        tokens = [self._encoding.decode_single_token_bytes(i) for i in range(self.vocab_size - 1)]
        return np.array([*map(len, tokens), 0], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        return self._encoding.decode(list(ids))

    def bytes_of(self, token: int) -> bytes:
        return self._encoding.decode_single_token_bytes(token)

    def describe(self) -> Gpt2Files:
        return {"kind": "gpt2", "files": self.files}


def _gpt2_ranks(folder: Path) -> dict[bytes, int]:
    """Byte strings to ranks. The 2019 files write each byte as a printable character: 33-126, 161-172 and 174-255 stand
    for themselves, the other 68 bytes in order for code points 256 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    vocabulary: dict[str, int] = json.loads((folder / VOCABULARY[0]).read_text(encoding="utf-8"))
    ranks = {
        bytes(byte_of[character] for character in word): rank
        for word, rank in vocabulary.items()
        if word != END_OF_TEXT
    }
    merges = (folder / VOCABULARY[1]).read_text(encoding="utf-8").split("\n")[1:-1]
    for i, line in enumerate(merges):
        word = "".join(line.split())
        if vocabulary[word] != 256 + i:
            raise UserError(f"{folder}: vocab.bpe and encoder.json disagree on {word!r}")
    return ranks


def load_tokenizer(tokens_dir: Path, gpt2_folder: Path | None = None) -> Tokenizer:
    """The tokenizer that the shards in tokens_dir were made with, its file checked."""
    content: Characters | Merges | Gpt2Files = Prepared(tokens_dir).json(TOKENIZER)
    if content["kind"] == "char":
        return CharTokenizer(content["characters"])
    if content["kind"] == "bpe":
        return BpeTokenizer([(left, right) for left, right in content["merges"]])

    tokenizer = Gpt2Tokenizer(gpt2_folder or GPT2_BPE)
    if tokenizer.files != content["files"]:
        raise UserError(
            f"{tokens_dir}: made with other vocabulary files than those in {gpt2_folder or GPT2_BPE}; python -m "
            "pipeline.download --pins config/data/gpt2_bpe.yaml brings the pinned ones"
        )
    return tokenizer
