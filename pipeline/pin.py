"""Pin local files by their content, as a recipe lists them.

    python -m pipeline.pin 'texts/*.jsonl'
    files:
      - {path: "texts/a.jsonl", sha256: fb166c90…}

Takes files, folders (every file in them) and patterns; the list is in the order given, each folder and pattern in the order of
its names. Put it into bits.data.source of kind huggingface, or one sha256 into a source of kind file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import sha256_of


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


def main() -> int:
    parser = argparse.ArgumentParser(description="Pin local files by their content, as a recipe lists them.")
    parser.add_argument("files", nargs="+", help="files, folders or patterns")
    args = parser.parse_args()
    print("files:")
    for path in files_of(args.files):
        print(f"  - {{path: {json.dumps(str(path), ensure_ascii=False)}, sha256: {sha256_of(path)}}}")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
