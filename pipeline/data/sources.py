"""Where documents come from: a text generated here, a pinned file, a data set of Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from cuda_ops.errors import UserError
from pipeline.base.checked import checked
from pipeline.data.blocks import text_of
from pipeline.data.documents import documents_of
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
