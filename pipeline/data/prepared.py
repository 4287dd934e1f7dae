"""A folder that a stage of preparation wrote: its record, and its files, each checked against the digest in the record.

prepare_text and prepare_images leave tokens.json, written last: {"sha256": {file: digest}, ...}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda_ops.errors import UserError
from pipeline.base.checked import checked
from pipeline.recipe.paths import SUMMARY

if TYPE_CHECKING:
    from pipeline.data.contents import ImageTokens, Tokens


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file; a UserError with the remedy if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: damaged; {remedy}") from None


class Prepared:
    """about: the record; file(name): the path of a checked file of the folder."""

    def __init__(self, folder: Path, maker: str = "prepare_text") -> None:
        self.folder = folder
        self.remedy = f"python -m pipeline.{maker} --recipe … makes {folder} again"
        path = folder / SUMMARY
        if not path.exists():
            raise UserError(f"{path}: no such file; {self.remedy}")
        self.about: Tokens | ImageTokens = read_json(path, self.remedy)
        if not isinstance(self.about, dict) or "sha256" not in self.about:
            raise UserError(f"{path}: damaged, or of an earlier version; {self.remedy}")
        self.digests: dict[str, str] = self.about["sha256"]

    @property
    def text(self) -> Tokens:
        """The record of a text."""
        if "vocab_size" not in self.about:
            raise UserError(f"{self.folder / SUMMARY}: of images, not of a text; {self.remedy}")
        return self.about

    def file(self, name: str) -> Path:
        """The path of a file, checked."""
        if name not in self.digests:
            raise UserError(f"{self.folder}: nothing is recorded of {name}; {self.remedy}")
        return checked(self.folder / name, self.digests[name], self.remedy)

    def json(self, name: str) -> Any:
        """The content of a JSON file, checked."""
        return read_json(self.file(name), self.remedy)
