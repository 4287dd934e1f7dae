"""Questions: read from JSON lines, kept as token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda_ops.errors import UserError
from pipeline.base.files import atomic_write
from pipeline.data.blocks import text_of
from pipeline.data.documents import json_lines
from pipeline.data.tokenizers import Tokenizer

if TYPE_CHECKING:
    from pipeline.data.contents import Question, QuestionText


def question_of(row: Any, where: str) -> QuestionText:
    """A question as it is kept: context, endings of any number, the number of the right one."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__}, expected {{context, endings, label}}")
    context = text_of(row, "context", where)
    endings, label = row.get("endings"), row.get("label")
    if not isinstance(endings, list) or len(endings) < 2:
        raise UserError(f"{where}: endings {endings!r}, expected a list of at least 2 texts")
    for i, ending in enumerate(endings):
        if not text_of({"endings": ending}, "endings", f"{where}: ending {i}"):
            raise UserError(f"{where}: ending {i} is empty: it has no loss")
    if type(label) is not int or not 0 <= label < len(endings):
        raise UserError(f"{where}: label {label!r}, expected a number from 0 to {len(endings) - 1}")
    return {"context": context, "endings": endings, "label": label}


def questions_of(path: Path) -> Iterator[QuestionText]:
    """The questions of a jsonl file, in its order."""
    for where, row in json_lines(path):
        yield question_of(row, where)


def tokenised(question: QuestionText, tokenizer: Tokenizer, where: str = "") -> Question:
    """A question's token ids; an ending is what the context's tokens are followed by in context + ending."""

    def encode(text: str, key: str) -> list[int]:
        try:
            return tokenizer.encode(text)
        except UserError as error:  # of characters that the corpus has not
            raise UserError(
                f"{where}: {key} {text!r} cannot be written: {error}; ask in these, or leave choices out of artifacts.scores"
            ) from None

    head = [] if tokenizer.separator is None else [tokenizer.separator]
    return {
        "context": head + encode(question["context"], "context"),
        "endings": [encode(ending, f"ending {i}") for i, ending in enumerate(question["endings"])],
        "bytes": [len(ending.encode()) for ending in question["endings"]],
        "label": question["label"],
    }


def write_questions(path: Path, questions: Iterable[QuestionText], tokenizer: Tokenizer) -> tuple[int, str]:
    """Tokenised questions, see write_rows."""
    rows = (tokenised(question, tokenizer, f"question {n}") for n, question in enumerate(questions, 1))
    return write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> tuple[int, str]:
    """A JSON list, as write_json would write it, a row at a time; returns how many and the file's SHA-256."""
    digest, count = hashlib.sha256(), 0
    with atomic_write(path) as file:

        def write(text: str) -> None:
            digest.update(text.encode())
            file.write(text.encode())

        for row in rows:
            content = json.dumps(row, sort_keys=True, indent=2, ensure_ascii=False).replace("\n", "\n  ")
            write(("[\n  " if count == 0 else ",\n  ") + content)
            count += 1
        write("\n]\n" if count else "[]\n")
    return count, digest.hexdigest()
