"""The digest of every result of a run, computed from the files.

What is hashed is canonical content: the tensors of a checkpoint by name, the bytes of text files. Nothing of the machine, the
time or the execution is in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.checkpoint import load, tensors_digest
from pipeline.base.files import sha256_of
from pipeline.recipe import Recipe, recipe_id
from pipeline.recipe.paths import data_dir, tokens_dir, train_shards

EXPECTED = Path(__file__).resolve().parents[2] / "config" / "expected"


def published(name: str, folder: Path = EXPECTED) -> dict[str, str]:
    """The published digests of a recipe, or nothing."""
    path = folder / f"{name}.json"
    if not path.exists():
        return {}
    try:
        content: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    return content


@dataclass(frozen=True)
class Entry:
    stage: str
    artefact: str
    digest: str


def checkpoint_digest(path: Path) -> str:
    """SHA-256 over name and digest of every tensor, by name."""
    return tensors_digest(load(path).tensors)


def run_files(recipe: Recipe) -> list[str]:
    """The files of a run folder that have digests, in the order they come to be."""
    steps = recipe.checkpoints
    files = [f for step in steps for f in (f"step_{step:06d}.safetensors", f"chain_{step:06d}.tsv")]
    return [*files, *(f"eval_{step:06d}.json" for step in steps), "samples.json"]


def entries(recipe: Recipe, run: Path, data: Path | None = None, tokens: Path | None = None) -> list[Entry]:
    """Digests of the whole run; a UserError names the first file that is missing or damaged."""
    data, tokens = data or data_dir(recipe), tokens or tokens_dir(recipe)
    found = [Entry("recipe", "bits", recipe_id(recipe))]

    def add(stage: str, path: Path, digest: str | None = None) -> None:
        if not path.exists():
            raise UserError(f"{path}: missing; run snakemake --cores all reproduction")
        found.append(Entry(stage, path.name, digest or sha256_of(path)))

    add("download", data / "documents.jsonl")
    for name in [*train_shards(recipe), "val_000000.bin", "tokenizer.json"]:
        add("prepare_text", tokens / name)
    link = chain.START
    for name in run_files(recipe):
        path = run / name
        if name.startswith("step_"):
            if not path.exists():
                add("train", path)
            add("train", path, checkpoint_digest(path))
        elif name.startswith("chain_"):
            link = chain.check(chain.read(path), link, path)
            add("train", path)
        else:
            add("evaluate" if name.startswith("eval_") else "sample", path)
    return found
