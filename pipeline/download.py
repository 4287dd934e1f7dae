"""Bring a corpus here: documents or images, generated, from a local file, from a URL, or from Hugging Face `datasets`.

    python -m pipeline.download --recipe config/recipes/fables.yaml
    results/data/fables-4bba0161: 24,000 documents, 7,992,529 bytes, sha256 fb166c90…

Of a text it writes documents.jsonl (one {"text": …} per line) and choices.jsonl (multiple-choice questions, or empty), of
images images.bin (pipeline/data/images.py), and last source.json: what it came from, and the digests. A URL is fetched into
raw/ with resume and checked against its SHA-256; a file of the same SHA-256 in the folder $SAMEBITS_MIRROR, or given by
--local, is taken instead. The files of a pin file stay in raw/ as they came; there is no documents.jsonl.

    python -m pipeline.download --pins config/data/fineweb_sample10BT.yaml --file sample/10BT/000_00000.parquet --out DIR
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.checked import remember
from pipeline.base.files import atomic_write, write_bytes, write_json
from pipeline.base.philox import Stream
from pipeline.data import fables, images
from pipeline.data.contents import Document, ImageSource, PinnedSource, QuestionText, RawFile, Source
from pipeline.data.documents import count_of
from pipeline.data.pinned import bring, kinds_of, list_hub
from pipeline.data.sources import texts_of
from pipeline.recipe import GeneratedSource, HuggingFaceSource, ImageData, Recipe, TextData, load_recipe
from pipeline.recipe import PinnedSource as PinnedFiles
from pipeline.recipe.paths import DOCUMENTS, IMAGES, QUESTIONS, RAW, SEEN, SOURCE, data_dir
from pipeline.recipe.pins import Pins, load_pins, lock_path, lock_text, pins_path
from pipeline.recipe.strict import bits_of


def write_lines(path: Path, rows: Iterable[Mapping[str, object]], pin: str | None = None) -> tuple[int, int, str]:
    """Canonical JSON lines; returns rows, bytes of text, and the SHA-256 of the file, which must be `pin` if there is one."""
    digest, count, size = hashlib.sha256(), 0, 0
    with atomic_write(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
            size += len(str(row.get("text", "")).encode())
        if pin not in (None, digest.hexdigest()):
            raise UserError(f"bits.data.source.sha256: the documents have {digest.hexdigest()}, the recipe pins {pin}")
    remember(path, digest.hexdigest())
    return count, size, digest.hexdigest()


def stories(source: GeneratedSource, told: set[str]) -> Iterator[Document]:
    """The stories of a generated text; adds each to `told`."""
    from tqdm import tqdm

    teller = fables.Teller(source.seed, Stream.CORPUS)
    for i in tqdm(range(source.stories), desc="stories", unit="story", disable=None):
        story = teller.story(i)
        told.add(story.text)
        yield {"text": story.text, "choices": story.choices}


def as_document(text: str) -> Document:
    return {"text": text}


def download_text(recipe: Recipe, data: TextData, out: Path, local: Path | None) -> Source | PinnedSource:
    """Write documents and questions; returns what source.json records."""
    source, told = data.source, set[str]()
    if isinstance(source, PinnedFiles):
        return download_pinned(source, out)
    rows = stories(source, told) if source.kind == "generated" else map(as_document, texts_of(source, out / RAW, local))
    pin = source.sha256 if isinstance(source, HuggingFaceSource) else None
    count, size, digest = write_lines(out / DOCUMENTS, rows, pin)
    if size == 0:
        raise UserError(f"the corpus of {recipe.name} is empty: {count} documents without text")
    asked: Iterable[QuestionText] = ()
    if isinstance(source, GeneratedSource):
        made = fables.questions(source.seed, source.questions, told)
        asked = ({"context": q.context, "endings": q.endings, "label": q.label} for q in made)
    files = {DOCUMENTS: digest, QUESTIONS: write_lines(out / QUESTIONS, asked)[2]}
    return {"source": bits_of(source), "documents": count, "bytes": size, "sha256": digest, "files": files}


def pins_of(source: PinnedFiles, out: Path) -> Pins:
    """The pin file of a recipe, which must list what the recipe pins; of a selection that nobody has listed, what the hub lists
    now: it is kept in `out`, to be published."""
    path, seen = pins_path(source.pins), out / SEEN
    pins = load_pins(path, listed=False, seen=seen)
    if pins.identity != source.sha256:
        raise UserError(
            f"bits.data.source.sha256: {path} lists other files: it has {pins.identity}, the recipe pins {source.sha256}; bring "
            "the pin file back, or pin the new list"
        )
    if not pins.files:
        write_bytes(seen, lock_text(pins, list_hub(pins), path.name).encode())
        print(f"{seen}: what the hub listed; publish it as {lock_path(path)}", file=sys.stderr)
        return load_pins(path, seen=seen)
    return pins


def download_pinned(source: PinnedFiles, out: Path) -> PinnedSource:
    """Bring the files of a pin file that are not here yet; returns what source.json records. They are not copied into one."""
    pins = pins_of(source, out)
    raw: list[RawFile] = []
    for file, kind in zip(pins.files, kinds_of(pins), strict=True):
        path = bring(pins, file, out / RAW / file.name)
        count = count_of(path, kind, source.column)
        raw.append({"name": file.name, "sha256": file.sha256, "bytes": file.bytes, "kind": kind, "documents": count})
    total, size = sum(file["documents"] for file in raw), sum(file["bytes"] for file in raw)
    if total == 0 and all(file["kind"] != "shard" for file in raw):
        raise UserError(f"{pins_path(source.pins)}: its {len(raw)} files have no documents")
    files = {QUESTIONS: write_lines(out / QUESTIONS, ())[2]}
    return {
        "source": bits_of(source), "documents": total, "bytes": size, "sha256": source.sha256, "files": files, "raw": raw
    }  # fmt: skip


def download_images(data: ImageData, out: Path) -> ImageSource:
    """Write the images; returns what source.json records."""
    count, size, digest = images.write_records(out / IMAGES, images.generate(data.source))
    found = {IMAGES: digest}
    return {"source": bits_of(data.source), "images": count, "bytes": size, "sha256": digest, "files": found}


def download(recipe_path: Path, out: Path | None, local: Path | None) -> str:
    """Run the stage; returns the line it prints."""
    recipe = load_recipe(recipe_path)
    data, out = recipe.bits.data, out or data_dir(recipe)
    found = download_text(recipe, data, out, local) if isinstance(data, TextData) else download_images(data, out)
    write_json(out / SOURCE, found)
    count = f"{found['images']:,} images" if "images" in found else f"{found['documents']:,} documents"
    return f"{out}: {count}, {found['bytes']:,} bytes, sha256 {found['sha256']}"


def fetch_pins(pin_file: Path, out: Path, name: str | None) -> str:
    """Fetch every file of a pin file (config/data/*.yaml), or the one of this name, into `out`."""
    pins = load_pins(pin_file)
    wanted = [file for file in pins.files if name in (None, file.name)]
    if not wanted:
        raise UserError(f"--file {name}: {pin_file} does not list it")
    for file in wanted:
        bring(pins, file, out / file.name)
    return f"{out}: {len(wanted)} files of {pin_file}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring a corpus here as documents or images.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", type=Path)
    what.add_argument("--pins", type=Path, help="a file of config/data instead of a recipe")
    parser.add_argument("--file", help="of --pins only the file of this name")
    parser.add_argument("--out", type=Path, help="folder to write (default: from the recipe)")
    parser.add_argument("--local", type=Path, help="a local copy of the file behind the URL")
    args = parser.parse_args()
    if args.pins:
        print(fetch_pins(args.pins, args.out or Path("results/data") / args.pins.stem, args.file))
    else:
        print(download(args.recipe, args.out, args.local))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
