"""A recipe for a text of one's own: everything of a base recipe but the corpus.

    python -m pipeline.own_text --recipe config/recipes/fables.yaml --data my.txt
    results/recipes/fables-my-1f2e3d4c.yaml

The text (.txt, .jsonl or .parquet with a column `text`) is pinned by its SHA-256, so the same text gives the same recipe.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import sha256_of, write_bytes
from pipeline.data.documents import documents_of
from pipeline.recipe import Recipe, TextData, as_written, load_recipe, parse_recipe
from pipeline.recipe.paths import RESULTS

FORMATS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".parquet": "parquet"}


def derive(base: Recipe, path: Path) -> Recipe:
    """The base recipe over the text at `path`."""
    if not isinstance(base.bits.data, TextData):
        raise UserError(
            f"data={path}: {base.name} reads data.kind {base.bits.data.kind}; give a recipe of data.kind text"
        )
    if not path.is_file():
        raise UserError(f"data={path}: no such file")
    if path.suffix not in FORMATS:
        raise UserError(f"data={path}: suffix {path.suffix!r}, allowed are {', '.join(FORMATS)}")
    texts = list(documents_of(path, FORMATS[path.suffix], "text"))
    if not any(texts):
        raise UserError(f"data={path}: there is no text in it")
    content = as_written(base)
    digest = sha256_of(path)
    stem = re.sub(r"[^a-z0-9_]+", "_", path.stem.lower()).strip("_") or "text"
    bits = content["bits"]
    content["name"] = f"{base.name}-{stem}-{digest[:8]}"
    content["description"] = f"{base.name} over {path.name}"
    bits["data"]["name"] = stem
    bits["data"]["source"] = {"kind": "file", "path": str(path), "sha256": digest, "format": FORMATS[path.suffix]}
    alone = len(texts) == 1
    bits["data"]["split"]["by"] = "characters" if alone else "documents"
    if alone and bits["data"]["order"] == "documents":
        bits["data"]["order"] = "random"
    content["artifacts"]["scores"] = [{"kind": "loss"}]
    if bits["data"]["tokenizer"]["kind"] == "char":
        size = len(set().union(*texts))
        bits["model"] |= {"vocab_size": size, "padded_vocab_size": -(-size // 16) * 16}
        if "samples" in content["artifacts"]:
            content["artifacts"]["samples"]["prompts"] = [next(text for text in texts if text)[0]]
    return parse_recipe(content, f"recipe for {path}")


def write(recipe: Recipe) -> Path:
    """The recipe as a file under results/recipes; an equal file is left untouched."""
    path = RESULTS / "recipes" / f"{recipe.name}.yaml"
    text = json.dumps(as_written(recipe), indent=2, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_bytes(path, text.encode())
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description="A recipe for a text of one's own.")
    parser.add_argument("--recipe", type=Path, required=True, help="base recipe")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    print(write(derive(load_recipe(args.recipe), args.data)))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
