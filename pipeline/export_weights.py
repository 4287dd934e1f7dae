"""Write a checkpoint's weights for other programs: a folder of Hugging Face's, or llm.c's .bin.

    python -m pipeline.export_weights --weights results/runs/fables/step_001000.safetensors --out exported
    exported: model.safetensors, 3 MB, sha256 1c5e…; config.json
    python -m pipeline.export_weights --weights exported --out gpt2_124M_bf16.bin --dtype bf16

A folder loads by transformers' from_pretrained: tied head, no padded vocabulary, projections transposed; with --gpt2, the
folder of GPT-2's vocabulary, its tokenizer's files lie there too. A name that ends in .bin is llm.c's: version 3 in fp32, 5 in
bf16 (rounded to the nearest). In fp32 no bit changes, and pipeline.import_weights brings the same file back. --weights may be
any file that it reads.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.checkpoint import sidecar, verify
from pipeline.base.files import atomic_write, write_json
from pipeline.base.tensors import TensorFile, write_tensors
from pipeline.data.fetch import vocabulary
from pipeline.models import hugging_face, llmc
from pipeline.models.weights import CONFIG, TENSORS, Weights, file_of, open_weights
from pipeline.recipe import Gpt
from pipeline.recipe.paths import VOCABULARY

SEPARATORS = {"gpt2": 50256, "bpe": 256}  # by kind of tokenizer, the token between texts
VERSIONS = {"fp32": 3, "bf16": 5}
TOKENIZER = ("vocab.json", "merges.txt")  # what transformers calls GPT-2's encoder.json and vocab.bpe


def separator_of(weights: Weights, config: Gpt) -> int | None:
    """The token between texts: of our checkpoints by their tokenizer, else GPT-2's where the vocabulary is its."""
    about: Any = weights.about if isinstance(weights, TensorFile) else None
    kind = (about or {}).get("vocabulary") or {}
    return SEPARATORS.get(kind.get("kind", "")) if kind else SEPARATORS["gpt2"] if config.vocab_size == 50257 else None


def to_folder(weights: Weights, config: Gpt, out: Path, gpt2: Path | None) -> str:
    """Write config.json and model.safetensors; returns the line that says so."""
    if weights["wte.weight"][config.vocab_size :].any():
        raise UserError(
            f"{weights.path}: the padded rows of wte.weight are not zero, and Hugging Face's model has none: they would be lost"
        )
    digest = write_tensors(
        out / TENSORS,
        hugging_face.specs_of(config),
        hugging_face.ToHuggingFace(weights, config),
        None,
        {"format": "pt"},
    )
    write_json(out / CONFIG, hugging_face.config_json(config, separator_of(weights, config)))
    words = f"{out}: {TENSORS}, {(out / TENSORS).stat().st_size:,} bytes, sha256 {digest}; {CONFIG}"
    if gpt2 is not None:
        for ours, theirs in zip(VOCABULARY, TOKENIZER, strict=True):
            with open(vocabulary(gpt2) / ours, "rb") as source, atomic_write(out / theirs) as target:
                shutil.copyfileobj(source, target)
        words += f", {', '.join(TOKENIZER)}"
    return words


def export(path: Path, out: Path, dtype: str, gpt2: Path | None) -> str:
    """Run the command; returns the line it prints."""
    weights, config = open_weights(path)
    if sidecar(file_of(path)).exists():
        verify(file_of(path))
    if out.suffix == ".bin":
        digest = llmc.write(out, weights, config, VERSIONS[dtype])
        return f"{out}: llm.c's version {VERSIONS[dtype]} ({dtype}), {out.stat().st_size:,} bytes, sha256 {digest}"
    if dtype != "fp32":
        raise UserError(
            f"--dtype {dtype}: for llm.c's .bin; a Hugging Face folder is fp32, and transformers rounds as it loads"
        )
    if out.is_file():
        raise UserError(f"--out {out}: a file; name a folder, or a file that ends in .bin for llm.c's format")
    return to_folder(weights, config, out, gpt2)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a checkpoint's weights for other programs.")
    parser.add_argument(
        "--weights", type=Path, required=True, help="a checkpoint, or any file pipeline.import_weights reads"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder (Hugging Face), or a name ending in .bin (llm.c)"
    )
    parser.add_argument("--dtype", choices=tuple(VERSIONS), default="fp32", help="of llm.c's format")
    parser.add_argument("--gpt2", type=Path, help="folder of GPT-2's vocabulary: its tokenizer's files are written too")
    args = parser.parse_args()
    print(export(args.weights, args.out, args.dtype, args.gpt2))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
