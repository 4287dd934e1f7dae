"""A recipe for a text of one's own: everything of a base recipe but the corpus, which is pinned by its SHA-256."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base.files import sha256_of, write_bytes
from pipeline.data.documents import documents_of
from pipeline.recipe import Recipe, TextData, as_written, parse_recipe
from pipeline.recipe.paths import RESULTS

LONGEST = 40  # characters of a text's name that the names of its recipe and folders take
FORMATS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".parquet": "parquet"}


def derive(base: Recipe, path: Path) -> Recipe:
    """The base recipe over the text at `path`."""
    if not isinstance(base.bits.data, TextData):
        raise UserError(
            f"data={path}: {base.name} reads data.kind {base.bits.data.kind}; give a recipe of data.kind text"
        )
    if not path.is_file():
        raise UserError(f"data={path}: {'not a file; name one' if path.exists() else 'no such file'}")
    if path.suffix not in FORMATS:
        raise UserError(f"data={path}: suffix {path.suffix!r}, allowed are {', '.join(FORMATS)}")
    texts = list(documents_of(path, FORMATS[path.suffix], "text"))
    if not any(texts):
        raise UserError(f"data={path}: there is no text in it")
    content = as_written(base)
    digest = sha256_of(path)
    stem = re.sub(r"[^a-z0-9_]+", "_", path.stem.lower()).strip("_")[:LONGEST] or "text"
    bits = content["bits"]
    content["name"] = f"{base.name}-{stem}-{digest[:8]}"
    content["description"] = f"{base.name} over {path.name}"
    bits["data"]["name"] = stem
    bits["data"]["source"] = {"kind": "file", "path": str(path), "sha256": digest, "format": FORMATS[path.suffix]}
    alone = len(texts) == 1
    permille = bits["data"]["split"].get("validation_permille", 100)  # one that splits by shards has none
    bits["data"]["split"] = {"by": "characters" if alone else "documents", "validation_permille": permille}
    if bits["data"]["order"] == "llmc":
        bits["data"]["order"] = "permutation"
    bits["data"].pop("train_shards", None)
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
