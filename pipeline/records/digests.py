"""The digest of every result of a run, computed from the files.

What is hashed is canonical content: the tensors of a checkpoint by name, the bytes of text files. Nothing of the
machine, the time or the execution is in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.files import sha256_of
from pipeline.recipe import Recipe, recipe_id
from pipeline.records.catalogue import PREPARING, Artefact, digested, folders
from pipeline.records.contents import Digests

EXPECTED = Path(__file__).resolve().parents[2] / "config" / "expected"


def digests_in(path: Path) -> Digests:
    """A list of digests by key, or nothing where there is no file."""
    if not path.exists():
        return {}
    try:
        content: Digests = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or not all(
        "/" in key and isinstance(digest, str) for key, digest in content.items()
    ):
        raise UserError(f"{path}: expected an object of stage/artefact and digests")
    return content


def published(name: str, folder: Path = EXPECTED) -> Digests:
    """The published digests of a recipe, or nothing."""
    return digests_in(folder / f"{name}.json")


@dataclass(frozen=True)
class Entry:
    """digest: "" of a file that is missing or damaged; problem: then what is wrong with it, and the remedy."""

    stage: str
    artefact: str
    digest: str
    problem: str = ""
    missing: bool = False

    @property
    def key(self) -> str:
        """Its name in digests.json and config/expected."""
        return f"{self.stage}/{self.artefact}"


def checkpoint_digest(path: Path) -> str:
    """SHA-256 over name and digest of every tensor, by name."""
    from pipeline.base.checkpoint import load, tensors_digest  # torch, which pages and publishing do not need

    return tensors_digest(load(path).tensors)


def digest_file(item: Artefact, path: Path, link: str) -> tuple[str, str]:
    """The digest of an artefact's file, and the link that the next chain goes on from: `link`, unless it is a chain.

    Without a link, of a chain whose piece before is not whole, its own first line is taken as it is.
    """
    if item.digest == "tensors":
        return checkpoint_digest(path), link
    if item.digest == "chain":
        lines = chain.read(path)
        link = chain.check(lines, link, path) if link else chain.check(lines[1:], lines[0].link if lines else "", path)
    return sha256_of(path), link


def looked_at(recipe: Recipe, run: Path | None = None) -> Iterator[Entry]:
    """Every artefact of a run in order, hashed; one that is missing or damaged has a problem in its entry instead."""
    where = folders(recipe, run=run)
    yield Entry("recipe", "bits", recipe_id(recipe))
    link = chain.START
    for item in digested(recipe):
        path = where[item.folder] / item.name
        digest, problem, missing = "", "", not path.exists()
        if missing:
            whole = "run snakemake --cores all reproduction --config recipe=…"
            maker = f"python -m pipeline.{item.stage} --recipe … makes it"
            problem = f"{path}: missing; {maker if item.stage in PREPARING else whole}"
        else:
            try:
                digest, link = digest_file(item, path, link)
            except UserError as error:
                problem = str(error)
        if problem and item.digest == "chain":
            link = ""
        yield Entry(item.stage, item.name, digest, problem, missing)


def entries(recipe: Recipe, run: Path | None = None) -> list[Entry]:
    """Digests of the whole run; a UserError names the first file that is missing or damaged."""
    found = []
    for entry in looked_at(recipe, run):
        if entry.problem:
            raise UserError(entry.problem)
        found.append(entry)
    return found
