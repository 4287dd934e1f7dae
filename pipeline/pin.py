"""Pin local files by their content, as a recipe lists them.

    python -m pipeline.pin 'texts/*.jsonl'
    files:
      - {path: "texts/a.jsonl", sha256: fb166c90…}

Takes files, folders (every file in them) and patterns; the list is in the order given, each folder and pattern in the order of
its names. Put it into bits.data.source of kind huggingface, or one sha256 into a source of kind file.

    python -m pipeline.pin texts --out texts.yaml                a pin file of a local folder, and what a recipe writes of it
    source: {kind: pinned, pins: texts.yaml, sha256: 0b1d…}
    python -m pipeline.pin --list config/data/fineweb_sample10BT.yaml             the same of a pin file that is there
    python -m pipeline.pin --hub config/data/fineweb_sample100BT.yaml             ask the hub for the hashes of a selection
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from cuda_ops.output import listing
from pipeline.base.files import sha256_of, write_bytes
from pipeline.data.pinned import list_hub
from pipeline.recipe.pins import FOLDER, PinnedFile, format_of, lines_of, load_pins, lock_path, lock_text


def files_of(given: Iterable[str]) -> Iterator[Path]:
    """The files that are meant, in order."""
    for name in given:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        else:
            found = (
                [path] if path.is_file() else sorted(p for p in map(Path, glob(name, recursive=True)) if p.is_file())
            )
        if not found:
            raise UserError(f"{name}: no such file, and no folder or pattern with files in it")
        yield from found


def source_line(path: Path) -> str:
    """A pin file as a recipe names it."""
    name = path.stem if path.resolve().parent == FOLDER else path
    return f"source: {{kind: pinned, pins: {name}, sha256: {load_pins(path, listed=False).identity}}}"


def pin_folder(folder: Path, out: Path) -> str:
    """Write a pin file of the files below a folder whose format is known."""
    if not folder.is_dir():
        raise UserError(f"{folder}: --out writes a pin file of one folder; give a folder")
    known = [path for path in files_of([str(folder)]) if format_of(path.name)]
    if not known:
        raise UserError(f"{folder}: no text, jsonl, parquet file or shard in it, by their suffixes")
    files = [
        PinnedFile(name=path.relative_to(folder).as_posix(), sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in known
        if path.stat().st_size
    ]
    head = [f"folder: {json.dumps(str(folder.resolve()), ensure_ascii=False)}"]
    write_bytes(out, "\n".join([*head, *lines_of(files), ""]).encode())
    return source_line(out)


def lock(path: Path) -> str:
    """Write the lock file of a selection: what the hub states of its files at the revision."""
    pins = load_pins(path, listed=False)
    if not pins.select:
        raise UserError(f"{path}: lists its files; --hub is for one that selects them by patterns")
    files = list_hub(pins)
    write_bytes(lock_path(path), lock_text(pins, files, path.name).encode())
    return f"{lock_path(path)}: {len(files)} files, {sum(file.bytes for file in files):,} bytes"


def main() -> int:
    parser = argparse.ArgumentParser(description="Pin local files by their content, as a recipe lists them.")
    parser.add_argument("files", nargs="*", help="files, folders or patterns")
    parser.add_argument("--out", type=Path, help="write a pin file of the one folder given")
    parser.add_argument("--list", type=Path, metavar="PINS", help="what a recipe writes to name a pin file")
    parser.add_argument("--hub", type=Path, metavar="PINS", help="write the lock file of a pin file that selects")
    args = parser.parse_args()
    if args.list or args.hub:
        print(source_line(args.list) if args.list else lock(args.hub))
        return 0
    if not args.files:
        raise UserError("name files, folders or patterns; or a pin file by --list or --hub")
    if args.out:
        print(pin_folder(Path(args.files[0]), args.out))
        return 0
    listing("files:")
    for path in files_of(args.files):
        listing(f"  - {{path: {json.dumps(str(path), ensure_ascii=False)}, sha256: {sha256_of(path)}}}")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
