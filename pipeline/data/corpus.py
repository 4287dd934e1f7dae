"""The corpus that the download left, read a block or a document at a time, and split into training and validation.

Documents lie in documents.jsonl, or, of a pinned source, in the files as they came (raw/).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cuda_ops.errors import UserError
from pipeline.base.checked import checked
from pipeline.data import blocks
from pipeline.data.blocks import Block, Lines, Pieces, marked, pieces
from pipeline.data.documents import blocks_of, documents_of, tasks
from pipeline.data.prepared import read_json
from pipeline.recipe import Split
from pipeline.recipe.paths import DOCUMENTS, QUESTIONS, RAW, SOURCE

if TYPE_CHECKING:
    from pipeline.data.contents import Document, ImageSource, PinnedSource, QuestionText, RawFile, Source

REMEDY = "python -m pipeline.download --recipe … makes it again"


class Corpus:
    """about: source.json; its files are checked against the digests in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / SOURCE
        if not path.exists():
            raise UserError(f"{path}: no such file; run python -m pipeline.download")
        self.about: Source | PinnedSource | ImageSource = read_json(path, REMEDY)
        if not isinstance(self.about, dict) or "files" not in self.about:
            raise UserError(f"{path}: damaged, or of an earlier version; {REMEDY}")
        self._digests: dict[str, str] = self.about["files"]
        self.raw: list[RawFile] = []
        if "raw" in self.about:
            self.raw = self.about["raw"]
        self.column: str = self.about["source"].get("column", "text")

    @property
    def text(self) -> Source | PinnedSource:
        """The record of a text."""
        if "documents" not in self.about:
            raise UserError(f"{self.folder / SOURCE}: of images, not of a text; {REMEDY}")
        return self.about

    def file(self, name: str) -> Path:
        """The path of a file, checked."""
        return checked(self.folder / name, self._digests[name], REMEDY)

    def raw_file(self, file: RawFile) -> Path:
        """The path of a file as it came, checked."""
        return checked(self.folder / RAW / file["name"], file["sha256"], REMEDY)

    def documents(self, begin: int = 0, end: int | None = None) -> Iterator[Document]:
        """Documents begin .. end - 1."""
        if self.raw:
            texts = (text for file in self.raw for text in self._texts(file))
            for text in islice(texts, begin, end):
                yield {"text": text}
            return
        with open(self.file(DOCUMENTS), "rb") as lines:
            for line in islice(lines, begin, end):
                yield json.loads(line)

    def _texts(self, file: RawFile) -> Iterator[str]:
        if file["kind"] == "shard":
            raise UserError(f"{file['name']}: a shard of tokens has no documents to split; use split.by shards")
        return documents_of(self.raw_file(file), file["kind"], self.column)

    def blocks(self, begin: int = 0, end: int | None = None) -> Iterator[Block]:
        """Documents begin .. end - 1, as a process that encodes takes them."""
        if self.raw:
            yield from tasks(marked(pieces(document["text"]) for document in self.documents(begin, end)))
            return
        path = self.file(DOCUMENTS)
        with open(path, "rb") as file:
            group: list[bytes] = []
            size = 0
            for number, line in enumerate(islice(file, begin, end), begin + 1):
                group.append(line.removesuffix(b"\n"))
                size += len(line)
                if size >= blocks.TASK:
                    yield Lines(str(path), "text", number + 1 - len(group), 1, b"\n".join(group))
                    group, size = [], 0
            if group:
                yield Lines(str(path), "text", 1, 1, b"\n".join(group))

    def blocks_by_file(self, skip: int) -> Iterator[Block]:
        """All documents but those of the first `skip` files; the last block of each file says that it ends."""
        if not self.raw:
            yield from blocks_of(self.file(DOCUMENTS), "jsonl", "text")
        for file in self.raw[skip:]:
            yield from blocks_of(self.raw_file(file), file["kind"], self.column)
            yield Pieces([], ends=True)

    def sizes(self) -> dict[str, int]:
        """The files in order, and their bytes."""
        return {file["name"]: file["bytes"] for file in self.raw} or {DOCUMENTS: self.file(DOCUMENTS).stat().st_size}

    def questions(self) -> Iterator[QuestionText]:
        """The corpus' own questions."""
        with open(self.file(QUESTIONS), "rb") as file:
            for line in file:
                yield json.loads(line)


@dataclass(frozen=True)
class Part:
    """One side of the split: how many documents; each as an iterator of the pieces of its text; all as blocks."""

    count: int
    texts: Callable[[], Iterator[Iterator[str]]]
    documents: Callable[[], Iterator[Document]]
    blocks: Callable[[], Iterator[Block]]


def split(corpus: Corpus, how: Split) -> tuple[Part, Part]:
    """Training and validation: the last validation_permille / 1000 are for validation."""
    keep, total = 1000 - how.validation_permille, corpus.text["documents"]
    if how.by == "documents":
        at = total * keep // 1000
        parts = _documents(corpus, 0, at), _documents(corpus, at, total)
    else:
        if total != 1:
            raise UserError(f"split.by: characters needs one document, the corpus has {total}; use documents")
        (document,) = corpus.documents()
        text: str = document["text"]  # the one text, in memory once
        at = len(text) * keep // 1000
        parts = _characters(text, 0, at), _characters(text, at, len(text))
    for name, part in zip(("training", "validation"), parts, strict=True):
        if not any(piece for text in part.texts() for piece in text):
            raise UserError(
                f"the {name} split has {part.count} documents and no text: the corpus ({total} documents, "
                f"{corpus.about['bytes']} bytes) is too small for split.validation_permille {how.validation_permille}"
            )
    return parts


def _documents(corpus: Corpus, begin: int, end: int) -> Part:
    def documents() -> Iterator[Document]:
        return corpus.documents(begin, end)

    return Part(
        end - begin,
        lambda: (pieces(document["text"]) for document in documents()),
        documents,
        lambda: corpus.blocks(begin, end),
    )


def _characters(text: str, begin: int, end: int) -> Part:
    def texts() -> Iterator[Iterator[str]]:
        return iter([pieces(text, begin, end)])

    return Part(1, texts, lambda: iter([{"text": text[begin:end]}]), lambda: tasks(marked(texts())))
