"""The corpus that the download left, read a document at a time and split into training and validation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline.base.checked import checked
from pipeline.data.encode import pieces
from pipeline.data.prepared import read_json
from pipeline.recipe import Split
from pipeline.recipe.paths import DOCUMENTS, QUESTIONS, SOURCE

Document = dict[str, Any]
REMEDY = "python -m pipeline.download --recipe … makes it again"


class Corpus:
    """about: source.json; its files are checked against the digests in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / SOURCE
        if not path.exists():
            raise UserError(f"{path}: no such file; run python -m pipeline.download")
        self.about: dict[str, Any] = read_json(path, REMEDY)
        if not isinstance(self.about, dict) or "files" not in self.about:
            raise UserError(f"{path}: damaged, or of an earlier version; {REMEDY}")
        self._digests: dict[str, str] = self.about["files"]

    def file(self, name: str) -> Path:
        """The path of a file, checked."""
        return checked(self.folder / name, self._digests[name], REMEDY)

    def documents(self, begin: int = 0, end: int | None = None) -> Iterator[Document]:
        """Documents begin .. end - 1."""
        with open(self.file(DOCUMENTS), "rb") as file:
            for line in islice(file, begin, end):
                yield json.loads(line)

    def questions(self) -> Iterator[dict[str, Any]]:
        """The corpus' own questions."""
        with open(self.file(QUESTIONS), "rb") as file:
            for line in file:
                yield json.loads(line)


@dataclass(frozen=True)
class Part:
    """One side of the split: how many documents, and each as an iterator of the pieces of its text."""

    count: int
    texts: Callable[[], Iterator[Iterator[str]]]
    documents: Callable[[], Iterator[Document]]


def split(corpus: Corpus, how: Split) -> tuple[Part, Part]:
    """Training and validation: the last validation_permille / 1000 are for validation."""
    keep, total = 1000 - how.validation_permille, int(corpus.about["documents"])
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

    return Part(end - begin, lambda: (pieces(document["text"]) for document in documents()), documents)


def _characters(text: str, begin: int, end: int) -> Part:
    return Part(1, lambda: iter([pieces(text, begin, end)]), lambda: iter([{"text": text[begin:end]}]))
