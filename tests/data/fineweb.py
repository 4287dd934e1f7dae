"""A corpus like FineWeb's, from a seed: parquet files with all its columns, several row groups each; and a recipe over it.

Texts have lengths as web pages have them (many short, few long), words that BPE splits, and characters beyond ASCII.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from pipeline import pin
from tests.conftest import ROOT

SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "ren",
    "tas",
    "ver",
    "un",
    "ing",
    "tion",
    "qu",
    "th",
    "str",
    "ö",
    "é",
    "ß",
    "日本",
    "данные",
    "🙂",
    "don't",
    "12",
    "3.5",
    "\t",
    "--",
    "<|endoftext|>",
]
RECIPE = ROOT / "tests" / "recipes" / "tiny_shards.yaml"


def texts(count: int, seed: int = 1, mean: float = 500.0) -> list[str]:
    """Documents; the first of them is empty, and one is long."""
    rng = random.Random(seed)

    def page(words: int) -> str:
        ends = " ", " ", " ", ", ", ". ", "\n", "\n\n"
        return "".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) + rng.choice(ends) for _ in range(words))

    found = [page(int(rng.expovariate(1 / mean)) + 1) for _ in range(count)]
    return ["", page(40 * int(mean)), *found[2:]]


def rows(pages: list[str], seed: int = 1) -> dict[str, list[Any]]:
    """The columns of FineWeb, as its card lists them."""
    rng = random.Random(seed)
    return {
        "text": pages,
        "id": [f"<urn:uuid:{rng.getrandbits(128):032x}>" for _ in pages],
        "dump": [f"CC-MAIN-20{rng.randint(13, 25)}-{rng.randint(1, 52):02}" for _ in pages],
        "url": [f"http://example.org/{i}" for i in range(len(pages))],
        "date": ["2013-05-18T07:24:47Z" for _ in pages],
        "file_path": ["s3://commoncrawl/long/path.gz" for _ in pages],
        "language": ["en" for _ in pages],
        "language_score": [rng.random() for _ in pages],
        "token_count": [len(page) // 4 for page in pages],
    }


def write_parquet(folder: Path, pages: list[str], files: int, group: int) -> None:
    """The documents in so many files, in row groups of so many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    each = -(-len(pages) // files)
    for i in range(files):
        table = pa.table(rows(pages[i * each : (i + 1) * each], i))
        parquet.write_table(table, folder / f"{i:03d}_00000.parquet", row_group_size=group, compression="zstd")


def write_lines(folder: Path, pages: list[str], suffix: str) -> None:
    """The same as one file of JSON lines, plain, .gz or .zst."""
    folder.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({"text": page, "url": "x"}) + "\n" for page in pages).encode()
    if suffix == ".gz":
        content = gzip.compress(content, 1)
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        content = sink.getvalue().to_pybytes()
    (folder / f"pages.jsonl{suffix}").write_bytes(content)


def recipe_over(folder: Path, path: Path, tokens: int, shards: int, text: str = "") -> Path:
    """A pin file of a folder beside a recipe that names it, both written to `path`."""
    pins = path.with_suffix(".pins.yaml")
    source = pin.pin_folder(folder, pins).removeprefix("source: ")
    text = text or RECIPE.read_text(encoding="utf-8")
    text = re.sub(r"source: .*", lambda _: f"source: {source}", text)
    text = re.sub(r"by: shards, tokens: \d+", f"by: shards, tokens: {tokens}", text)
    path.write_text(re.sub(r"train_shards: \d+", f"train_shards: {shards}", text), encoding="utf-8")
    return path
