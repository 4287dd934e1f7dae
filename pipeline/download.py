"""Bring a corpus here: documents or images, generated, from a local file, from a URL, or from Hugging Face `datasets`.

    python -m pipeline.download --recipe config/recipes/fables.yaml
    results/data/fables-4bba0161: 24,000 documents, 7,992,529 bytes, sha256 fb166c90…

Of a text it writes documents.jsonl (one {"text": …} per line) and choices.jsonl (multiple-choice questions, or empty), of
images images.bin (pipeline/data/images.py), and last source.json: what it came from, and the digests. A URL is fetched into
raw/ with resume and checked against its SHA-256; a file of the same SHA-256 in the folder $SAMEBITS_MIRROR, or given by
--local, is taken instead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.checked import remember
from pipeline.base.files import atomic_write, write_json
from pipeline.base.philox import Stream
from pipeline.data import fables, images
from pipeline.data.fetch import fetch, pins_of
from pipeline.data.sources import texts_of
from pipeline.recipe import GeneratedSource, HuggingFaceSource, ImageData, Recipe, TextData, load_recipe
from pipeline.recipe.paths import DOCUMENTS, IMAGES, QUESTIONS, SOURCE, data_dir
from pipeline.recipe.strict import bits_of


def write_lines(path: Path, rows: Iterable[dict[str, Any]], pin: str | None = None) -> tuple[int, int, str]:
    """Canonical JSON lines; returns rows, bytes of text, and the SHA-256 of the file, which must be `pin` if there is one."""
    digest, count, size = hashlib.sha256(), 0, 0
    with atomic_write(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
            size += len(row.get("text", "").encode())
        if pin not in (None, digest.hexdigest()):
            raise UserError(f"bits.data.source.sha256: the documents have {digest.hexdigest()}, the recipe pins {pin}")
    remember(path, digest.hexdigest())
    return count, size, digest.hexdigest()


def stories(source: GeneratedSource, told: set[str]) -> Iterator[dict[str, Any]]:
    """The stories of a generated text; adds each to `told`."""
    from tqdm import tqdm

    teller = fables.Teller(source.seed, Stream.CORPUS)
    for i in tqdm(range(source.stories), desc="stories", unit="story", disable=None):
        story = teller.story(i)
        told.add(story.text)
        yield {"text": story.text, "choices": story.choices}


def as_document(text: str) -> dict[str, Any]:
    return {"text": text}


def download_text(recipe: Recipe, data: TextData, out: Path, local: Path | None) -> dict[str, Any]:
    """Write documents and questions; returns what source.json records."""
    source, told = data.source, set[str]()
    rows = (
        stories(source, told) if source.kind == "generated" else map(as_document, texts_of(source, out / "raw", local))
    )
    pin = source.sha256 if isinstance(source, HuggingFaceSource) else None
    count, size, digest = write_lines(out / DOCUMENTS, rows, pin)
    if size == 0:
        raise UserError(f"the corpus of {recipe.name} is empty: {count} documents without text")
    asked: Iterable[dict[str, Any]] = ()
    if isinstance(source, GeneratedSource):
        asked = map(asdict, fables.questions(source.seed, source.questions, told))
    files = {DOCUMENTS: digest, QUESTIONS: write_lines(out / QUESTIONS, asked)[2]}
    return {"documents": count, "bytes": size, "sha256": digest, "files": files}


def download_images(data: ImageData, out: Path) -> dict[str, Any]:
    """Write the images; returns what source.json records."""
    count, size, digest = images.write_records(out / IMAGES, images.generate(data.source))
    return {"images": count, "bytes": size, "sha256": digest, "files": {IMAGES: digest}}


def download(recipe_path: Path, out: Path | None, local: Path | None) -> str:
    """Run the stage; returns the line it prints."""
    recipe = load_recipe(recipe_path)
    data, out = recipe.bits.data, out or data_dir(recipe)
    found = download_text(recipe, data, out, local) if isinstance(data, TextData) else download_images(data, out)
    write_json(out / SOURCE, {"source": bits_of(data.source)} | found)
    kind = "documents" if isinstance(data, TextData) else "images"
    return f"{out}: {found[kind]:,} {kind}, {found['bytes']:,} bytes, sha256 {found['sha256']}"


def fetch_pins(pin_file: Path, out: Path) -> str:
    """Fetch every file of a pin file (config/data/*.yaml) into `out`."""
    pins = pins_of(pin_file)
    for pin in pins:
        fetch(pin["url"], pin["sha256"], pin["bytes"], out / pin["name"])
    return f"{out}: {len(pins)} files of {pin_file}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring a corpus here as documents or images.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", type=Path)
    what.add_argument("--pins", type=Path, help="a file of config/data instead of a recipe")
    parser.add_argument("--out", type=Path, help="folder to write (default: from the recipe)")
    parser.add_argument("--local", type=Path, help="a local copy of the file behind the URL")
    args = parser.parse_args()
    if args.pins:
        print(fetch_pins(args.pins, args.out or Path("results/data") / args.pins.stem))
    else:
        print(download(args.recipe, args.out, args.local))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
