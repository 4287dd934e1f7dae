"""What the JSON files of a corpus and of what was prepared of it hold, key by key: both who writes and who reads them is
typed by these forms. tests/records/test_contents.py holds the files of small runs to them; they check nothing at run time.

Digests are 64 lower-case hex digits. A run's own files: pipeline/records/contents.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, final

from typing_extensions import TypedDict  # pydantic, which holds files to these forms, wants its own before 3.12


@final  # so that a key tells the three apart
class Source(TypedDict):
    """source.json of a text: where it came from. `sha256` is that of documents.jsonl, `bytes` those of its texts."""

    source: dict[str, Any]  # bits.data.source of the recipe, without a local path
    documents: int
    bytes: int
    sha256: str
    files: dict[str, str]  # SHA-256 by file name


class RawFile(TypedDict):
    """A file of a pinned source, as it came."""

    name: str
    sha256: str
    bytes: int
    kind: str
    documents: int


@final
class PinnedSource(TypedDict):
    """source.json of the files of a pin file. `sha256` is that of the list, as the recipe pins it, `bytes` those of the files."""

    source: dict[str, Any]
    documents: int
    bytes: int
    sha256: str
    files: dict[str, str]
    raw: list[RawFile]


@final
class ImageSource(TypedDict):
    """source.json of images. `sha256` and `bytes` are those of images.bin."""

    source: dict[str, Any]
    images: int
    bytes: int
    sha256: str
    files: dict[str, str]


class Document(TypedDict):
    """A line of documents.jsonl."""

    text: str
    choices: NotRequired[Sequence[int]]  # of a generated text: among how many options each choice was made


class QuestionText(TypedDict):
    """A line of choices.jsonl."""

    context: str
    endings: Sequence[str]
    label: int  # the number of the right one


class TrainingSplit(TypedDict):
    tokens: int
    documents: int


class ValidationSplit(TypedDict):
    tokens: int
    documents: int
    bytes: int
    choices: dict[str, int]  # options -> how often among so many equally likely ones was chosen


@final
class Tokens(TypedDict):
    """tokens.json: the shards beside it, by file name in `sha256`."""

    tokenizer: str
    vocab_size: int
    train: TrainingSplit
    validation: ValidationSplit
    questions: int
    sha256: dict[str, str]
    largest: dict[str, int]  # token of each shard


class ImageSplit(TypedDict):
    images: int


@final
class ImageTokens(TypedDict):
    """tokens.json of images: what training reads has one name for every kind of data."""

    train: ImageSplit
    validation: ImageSplit
    height: int
    width: int
    classes: int
    sha256: dict[str, str]


class Characters(TypedDict):
    """tokenizer.json of one token per character."""

    kind: Literal["char"]
    characters: str


class Merges(TypedDict):
    """tokenizer.json of a BPE of our own."""

    kind: Literal["bpe"]
    merges: list[list[int]]  # pairs of tokens, in their order


class Gpt2Files(TypedDict):
    """tokenizer.json of GPT-2's encoding."""

    kind: Literal["gpt2"]
    files: dict[str, str]  # SHA-256 by file name


class Question(TypedDict):
    """An element of choices.json: token ids, and the bytes of each ending."""

    context: list[int]
    endings: list[list[int]]
    bytes: list[int]
    label: int


class Endings(TypedDict):
    context: list[int]
    endings: list[list[int]]


class HellaSwagRow(TypedDict):
    """A question in both protocols; characters: of each ending of lm_eval's."""

    label: int
    llmc: Endings
    lm_eval: Endings
    characters: list[int]


class LambadaRow(TypedDict):
    """A text and its last word."""

    context: list[int]
    word: list[int]


class WikiTextRow(TypedDict):
    """A page: tokens of the detokenised text, words and bytes of the original."""

    tokens: list[int]
    words: int
    bytes: int


class PreparedQuestions(TypedDict):
    """The record beside questions of a source of their own."""

    sha256: str


class Where(TypedDict):
    """Where a sample of a step comes from, for people."""

    offset: int  # in the training split
    tokens: NotRequired[list[int]]  # of text: its window
    label: NotRequired[int]  # of an image
