"""Pin files (config/data/*.yaml): the files of a data set, each by name, bytes and SHA-256, and where they come from.

From a repository of the Hugging Face hub at a revision, from URLs, or from a local folder. Where nobody here knows the hashes, the
file has patterns (`select`) and no list; the list that was seen then lies beside it as <stem>.lock.yaml (python -m pipeline.pin --hub).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from cuda_ops.errors import UserError
from pipeline.recipe.strict import Positive, Sha256, Strict

FOLDER = Path(__file__).resolve().parents[2] / "config" / "data"
FORMATS = {
    ".txt": "text", ".md": "text", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".bin": "shard"
}  # fmt: skip
PACKED = (".gz", ".zst")  # of text and jsonl


def format_of(name: str) -> str | None:
    """What a file holds, by its suffix: text (one document), jsonl, parquet, shard (tokens); None if it is none of them."""
    path = PurePosixPath(name)
    packed = path.suffix in PACKED
    kind = FORMATS.get(path.with_suffix("").suffix if packed else path.suffix)
    return None if packed and kind in ("parquet", "shard") else kind


class PinnedFile(Strict):
    """name: its path in the repository or the local folder, and below the folder that it is brought to."""

    name: str = Field(min_length=1)
    sha256: Sha256
    bytes: Positive
    url: str | None = None

    @model_validator(mode="after")
    def inside(self) -> PinnedFile:
        if PurePosixPath(self.name).is_absolute() or ".." in PurePosixPath(self.name).parts:
            raise ValueError(f"name {self.name!r}: give a path below the folder, without ..")
        return self


class Pins(Strict):
    repo: str | None = Field(default=None, description="of the hub")
    repo_type: Literal["dataset", "model"] = "dataset"
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    folder: str | None = Field(default=None, description="local, where the files lie")
    licence: str = ""
    reported: str = Field(default="", description="who published the hashes, where they were not read again here")
    recipe: str | None = Field(default=None, description="whose shards these are, in order, for prepare_text --compare")
    select: tuple[str, ...] = Field(default=(), description="patterns of names, where the hashes are not known")
    files: tuple[PinnedFile, ...] = ()

    @model_validator(mode="after")
    def complete(self) -> Pins:
        if self.repo and not self.revision:
            raise ValueError(f"revision: {self.repo} must be pinned to a commit of 40 hex digits")
        if not self.files and not (self.select and self.repo):
            raise ValueError("files: none; list them, or give a repo, a revision and patterns to select")
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError(f"files: a name is listed twice: {max(names, key=names.count)}")
        for file in self.files:
            if not (file.url or self.repo or self.folder):
                raise ValueError(f"files: {file.name} has no url, and there is no repo and no folder")
        return self

    @property
    def identity(self) -> str:
        """What a recipe pins: formats and hashes in order; of a selection, repository, revision and patterns."""
        files: list[Any] = [[format_of(file.name), file.sha256] for file in self.files]
        what = [self.repo, self.revision, *self.select] if self.select else files
        return hashlib.sha256(json.dumps(what, separators=(",", ":")).encode()).hexdigest()

    def chosen(self, names: list[str]) -> list[str]:
        """Of the names of a repository those that the patterns select, sorted."""
        return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in self.select))


def pins_path(given: str) -> Path:
    """The file that is meant: a name of config/data, or a path."""
    return Path(given) if given.endswith(".yaml") else FOLDER / f"{given}.yaml"


def lock_path(path: Path) -> Path:
    """Where the list that the hub gave for a selection lies."""
    return path.with_name(f"{path.stem}.lock.yaml")


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; pin files are in config/data") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def _parse(content: Any, path: Path) -> Pins:
    try:
        return Pins.model_validate_json(json.dumps(content))
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(map(str, item["loc"]))
        raise UserError(f"{path}: {key + ': ' if key else ''}{item['msg'].removeprefix('Value error, ')}") from None


def load_pins(path: Path, listed: bool = True, seen: Path | None = None) -> Pins:
    """Read a pin file, of a selection with its lock file, or with the one at `seen`; listed: refuse one whose files are not known."""
    pins = _parse(_read(path), path)
    for place in (lock_path(path), seen):
        if pins.select and place and place.exists():
            lock = _parse(_read(place), place)
            if (lock.repo, lock.revision, lock.select) != (pins.repo, pins.revision, pins.select):
                raise UserError(f"{place}: of another repository, revision or selection than {path}; delete it")
            return lock
    if listed and not pins.files:
        raise UserError(
            f"{path}: the hashes of its files are not known here; python -m pipeline.pin --hub {path} asks the hub for them "
            f"at revision {pins.revision} and writes {lock_path(path)}"
        )
    return pins


def lines_of(files: Iterable[PinnedFile]) -> Iterator[str]:
    """The list of a pin file."""
    yield "files:"
    for file in files:
        name = json.dumps(file.name, ensure_ascii=False)
        yield f"  - {{name: {name}, bytes: {file.bytes}, sha256: {file.sha256}}}"


def lock_text(pins: Pins, files: list[PinnedFile], name: str) -> str:
    """A lock file: a selection and the files that it chose."""
    head = [
        f"# The files that {name} selects, as the hub stated them.",
        f"repo: {pins.repo}",
        f"repo_type: {pins.repo_type}",
        f"revision: {pins.revision}",
        f"select: {json.dumps(list(pins.select))}",
    ]
    return "\n".join([*head, *lines_of(files), ""])
