"""A folder that a stage of preparation wrote: its record, and its files, each checked against the digest in the record.

prepare_text leaves tokens.json, prepare_images images.json: {"sha256": {file: digest}, ...}, written last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline.base.checked import checked

TOKENS, IMAGES = "tokens.json", "images.json"
MAKERS = {TOKENS: "prepare_text", IMAGES: "prepare_images"}


class Prepared:
    """about: the record; file(name): the path of a checked file of the folder."""

    def __init__(self, folder: Path, record: str = TOKENS) -> None:
        self.folder = folder
        self.remedy = f"python -m pipeline.{MAKERS[record]} --recipe … makes {folder} again"
        path = folder / record
        if not path.exists():
            raise UserError(f"{path}: no such file; {self.remedy}")
        try:
            self.about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self.digests: dict[str, str] = self.about["sha256"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: damaged; {self.remedy}") from None

    def file(self, name: str) -> Path:
        """The path of a file, checked."""
        if name not in self.digests:
            raise UserError(f"{self.folder}: nothing is recorded of {name}; {self.remedy}")
        return checked(self.folder / name, self.digests[name], self.remedy)

    def json(self, name: str) -> Any:
        """The content of a JSON file, checked."""
        return json.loads(self.file(name).read_text(encoding="utf-8"))
