"""Bring a corpus here as documents: generated, from a local file, from a URL, or from Hugging Face `datasets`.

    python -m pipeline.download --recipe config/recipes/fables.yaml
    results/data/fables-3f9d27a1: 24,000 documents, 7,177,613 bytes, sha256 52a1…

Writes documents.jsonl (one {"text": …} per line), choices.jsonl (multiple-choice questions, or empty) and source.json (what
it came from). A URL is fetched into raw/ with resume and checked against its SHA-256; a file of the same SHA-256 in the
folder $SAMEBITS_MIRROR, or given by --local, is taken instead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import atomic_write, sha256_of, write_json
from pipeline.base.philox import Stream
from pipeline.data import fables
from pipeline.data.documents import documents_of, text_of
from pipeline.recipe import FileSource, GeneratedSource, HuggingFaceSource, UrlSource, load_recipe
from pipeline.recipe.paths import data_dir

ATTEMPTS = 4

# ---------------------------------------------------------------- pinned files


def from_mirror(sha256: str, size: int | None) -> Path | None:
    """A file of this content under $SAMEBITS_MIRROR, whatever its name."""
    folder = os.environ.get("SAMEBITS_MIRROR")
    if not folder:
        return None
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and size in (None, path.stat().st_size) and sha256_of(path) == sha256:
            return path
    return None


def fetch(url: str, sha256: str, size: int | None, target: Path, local: Path | None = None) -> Path:
    """The file of a pin at `target`, checked. An interrupted download goes on where it stopped.

    A content that differs from the pin is kept as <target>.rejected and named; nothing else is touched.
    """
    if target.exists() and sha256_of(target) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    copy = local or from_mirror(sha256, size)
    part = target.with_name(target.name + ".part")
    if copy is not None:
        if not copy.exists():
            raise UserError(f"--local {copy}: no such file")
        shutil.copyfile(copy, part)
    elif urlparse(url).scheme == "file":
        source = Path(urlparse(url).path)
        if not source.exists():
            raise UserError(f"{url}: no such file")
        shutil.copyfile(source, part)
    else:
        _download(url, part)
    found = sha256_of(part)
    if found != sha256:
        rejected = target.with_name(target.name + ".rejected")
        os.replace(part, rejected)
        raise UserError(
            f"{copy or url}: sha256 {found} ({rejected.stat().st_size} bytes), the recipe pins {sha256}; the content "
            f"is kept as {rejected}. If the new content is right, change the pin"
        )
    os.replace(part, target)
    return target


def _download(url: str, part: Path) -> None:
    import requests
    from tqdm import tqdm

    for attempt in range(ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=30) as reply:
                if reply.status_code == 416:  # nothing after what we have
                    return
                reply.raise_for_status()
                resumed = reply.status_code == 206
                length = int(reply.headers.get("Content-Length", 0))
                with (
                    open(part, "ab" if resumed else "wb") as file,
                    tqdm(
                        initial=have if resumed else 0,
                        total=(have if resumed else 0) + length or None,
                        unit="B",
                        unit_scale=True,
                        desc=part.stem,
                        disable=None,
                    ) as bar,
                ):
                    for block in reply.iter_content(1 << 16):
                        file.write(block)
                        bar.update(len(block))
                    got = file.tell()
            if not length or got >= (have if resumed else 0) + length:
                return
            problem = f"broke off after {got} bytes"
        except requests.RequestException as error:
            problem = str(error)
        print(f"{url}: {problem} (attempt {attempt + 1} of {ATTEMPTS})", file=sys.stderr)
    raise UserError(
        f"{url}: {problem}. What arrived is kept and the next run goes on from there; or give a copy by --local FILE, "
        "or a folder of copies by SAMEBITS_MIRROR"
    )


# ---------------------------------------------------------------- documents


def hugging_face(source: HuggingFaceSource) -> Iterator[str]:
    """Rows of a data set through `datasets`, streamed in the order of its files at the pinned revision."""
    import datasets

    data_files = list(source.data_files) or None
    try:
        rows = datasets.load_dataset(
            source.repo,
            name=source.config,
            data_files={source.split: data_files} if data_files else None,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
    except (ConnectionError, FileNotFoundError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise UserError(
            f"Hugging Face data set {source.repo!r} (revision {source.revision}): {error}. Without a network, copy its "
            "files here and use repo: parquet with data_files"
        ) from None
    for i, row in enumerate(rows):
        if source.rows is not None and i >= source.rows:
            return
        yield text_of(row, source.column, f"{source.repo}: row {i}")


# ---------------------------------------------------------------- the stage


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> tuple[int, int, str]:
    """Canonical JSON lines; returns rows, bytes of text, and the SHA-256 of the file."""
    digest, count, size = hashlib.sha256(), 0, 0
    with atomic_write(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
            size += len(row.get("text", "").encode())
    return count, size, digest.hexdigest()


def generate(source: GeneratedSource, out: Path) -> tuple[int, int, str]:
    """Tell the stories and the questions."""
    from tqdm import tqdm

    teller = fables.Teller(source.seed, Stream.CORPUS)
    told: set[str] = set()

    def stories() -> Iterator[dict[str, Any]]:
        for i in tqdm(range(source.stories), desc="stories", unit="story", disable=None):
            story = teller.story(i)
            told.add(story.text)
            yield {"text": story.text, "choices": story.choices}

    result = write_lines(out / "documents.jsonl", stories())
    asked = fables.questions(source.seed, source.questions, told)
    write_lines(out / "choices.jsonl", (asdict(question) for question in asked))
    return result


def download(recipe_path: Path, out: Path | None, local: Path | None) -> str:
    """Run the stage; returns the line it prints."""
    recipe = load_recipe(recipe_path)
    source = recipe.bits.data.source
    out = out or data_dir(recipe)
    if isinstance(source, GeneratedSource):
        count, size, digest = generate(source, out)
    else:
        if isinstance(source, UrlSource):
            name = Path(urlparse(source.url).path).name or "download"
            path = fetch(source.url, source.sha256, source.bytes, out / "raw" / name, local)
            texts = documents_of(path, source.format, source.column)
        elif isinstance(source, FileSource):
            path = local or Path(source.path)
            if not path.exists():
                raise UserError(f"{path}: no such file; bits.data.source.path names it")
            found = sha256_of(path)
            if found != source.sha256:
                raise UserError(f"{path}: sha256 {found}, the recipe pins {source.sha256}")
            texts = documents_of(path, source.format, source.column)
        else:
            texts = hugging_face(source)
        count, size, digest = write_lines(out / "documents.jsonl", ({"text": text} for text in texts))
        if isinstance(source, HuggingFaceSource) and source.sha256 not in (None, digest):
            raise UserError(f"{source.repo}: documents have sha256 {digest}, the recipe pins {source.sha256}")
        write_lines(out / "choices.jsonl", [])
    if size == 0:
        raise UserError(f"{recipe_path}: the corpus is empty: {count} documents without text")
    pins = {"source": json.loads(source.model_dump_json(exclude={"path"})), "documents": count, "bytes": size}
    write_json(out / "source.json", pins | {"sha256": digest})
    return f"{out}: {count:,} documents, {size:,} bytes, sha256 {digest}"


def fetch_pins(pin_file: Path, out: Path) -> str:
    """Fetch every file of a pin file (config/data/*.yaml) into `out`."""
    pins = yaml.safe_load(pin_file.read_text(encoding="utf-8"))
    for pin in pins["files"]:
        fetch(pin["url"], pin["sha256"], pin["bytes"], out / pin["name"])
    return f"{out}: {len(pins['files'])} files of {pin_file}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring a corpus here as documents.")
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
