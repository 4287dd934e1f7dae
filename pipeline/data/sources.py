"""Where documents and questions come from: a text generated here, a pinned file, a data set of Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from cuda_ops.errors import UserError
from pipeline.base.checked import checked
from pipeline.data.documents import documents_of, json_lines, text_of
from pipeline.data.fetch import fetch
from pipeline.recipe import FileSource, HuggingFaceSource, UrlSource


def pinned_file(source: UrlSource | FileSource, key: str, raw: Path, local: Path | None = None) -> Path:
    """The file of a source, checked; key: of the recipe, for messages; raw: folder that a URL is fetched into."""
    if isinstance(source, UrlSource):
        name = Path(urlparse(source.url).path).name or "download"
        return fetch(source.url, source.sha256, source.bytes, raw / name, local)
    path = local or Path(source.path)
    return _same(path, source.sha256, f"{key}.path")


def _same(path: Path, sha256: str, key: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {key} names it")
    try:
        return checked(path, sha256, "")
    except UserError:
        raise UserError(
            f"{path}: not the file that the recipe pins ({sha256}); bring that one back, or pin the new content: "
            f"python -m pipeline.pin {path}"
        ) from None


def texts_of(source: UrlSource | FileSource | HuggingFaceSource, raw: Path, local: Path | None) -> Iterator[str]:
    """The documents of a source, in its order."""
    if not isinstance(source, HuggingFaceSource):
        path = pinned_file(source, "bits.data.source", raw, local)
        yield from documents_of(path, source.format, source.column)
        return
    rows = local_rows(source) if source.local else hub_rows(source)
    for i, text in enumerate(rows):
        if i == source.rows:
            return
        yield text


def local_rows(source: HuggingFaceSource) -> Iterator[str]:
    """Rows of local files, each checked before the first row is read."""
    kind = {"parquet": "parquet", "json": "jsonl"}[source.repo]
    keys = [f"bits.data.source.files[{i}]" for i in range(len(source.files))]
    paths = [_same(Path(file.path), file.sha256, f"{key}.path") for key, file in zip(keys, source.files, strict=True)]
    for path in paths:
        yield from documents_of(path, kind, source.column)


def hub_rows(source: HuggingFaceSource) -> Iterator[str]:
    """Rows of a data set of the hub, streamed in the order of its files at the pinned revision."""
    import datasets

    if Path(source.repo).exists():
        raise UserError(f"bits.data.source.repo: {source.repo} is a folder here, and its revision would pin nothing")
    data_files = list(source.data_files) or None
    where, row = f"{source.repo} at {source.revision}", 0
    try:
        rows = datasets.load_dataset(
            source.repo,
            name=source.config,
            data_files={source.split: data_files} if data_files else None,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
        for content in rows:
            yield text_of(content, source.column, f"{where}: row {row}")
            row += 1
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"Hugging Face data set {where}: after {row} rows: {error}. Without a network, copy its files here, use repo "
            "parquet or json, and pin them: python -m pipeline.pin FILES"
        ) from None


def question_of(row: Any, where: str) -> dict[str, Any]:
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


def questions_of(path: Path) -> Iterator[dict[str, Any]]:
    """The questions of a jsonl file, in its order."""
    for where, row in json_lines(path):
        yield question_of(row, where)
