"""Documents to token shards.

    python -m pipeline.prepare_text --recipe config/recipes/fables.yaml
    results/data/fables-…/bpe512-…: 2,071,310 + 53,102 tokens, vocabulary 512, floor 0.2643 nats/token

Writes llm.c-style shards (train_000000.bin …, val_000000.bin), where documents start (*.npy), tokenizer.json, choices.json (the
tokenised questions) and tokens.json (counts, digests, the entropy floor's integer counts). The split and the vocabulary are
pure functions of the recipe; documents are encoded in parallel with their order kept.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import sha256_of, write_bytes, write_json
from pipeline.data.shards import write_shard
from pipeline.data.tokenizers import BpeTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer
from pipeline.recipe import BpeTokenizer as BpeRecipe
from pipeline.recipe import Recipe, Split, load_recipe
from pipeline.recipe.paths import GPT2_BPE, data_dir, tokens_dir, train_shards

CHUNK = 256  # documents that a worker encodes at a time

Document = dict[str, Any]


def read_documents(data: Path) -> list[Document]:
    path = data / "documents.jsonl"
    if not path.exists():
        raise UserError(f"{path}: no such file; run python -m pipeline.download")
    with open(path, encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def split_documents(documents: list[Document], split: Split) -> tuple[list[Document], list[Document]]:
    """Training and validation documents: the last validation_permille / 1000 are for validation."""
    keep = 1000 - split.validation_permille
    if split.by == "documents":
        at = len(documents) * keep // 1000
        parts = documents[:at], documents[at:]
    else:
        if len(documents) != 1:
            raise UserError(f"split.by: characters needs one document, the corpus has {len(documents)}; use documents")
        text = documents[0]["text"]
        at = len(text) * keep // 1000
        parts = [{"text": text[:at]}], [{"text": text[at:]}]
    if not all(any(document["text"] for document in part) for part in parts):
        raise UserError(
            f"the split leaves {len(parts[0])} training and {len(parts[1])} validation documents with text: the corpus "
            "is too small for split.validation_permille"
        )
    return parts


def make_tokenizer(recipe: Recipe, train: list[Document], every: list[Document], gpt2_folder: Path) -> Tokenizer:
    """The recipe's tokenizer; a BPE is trained on the training split only."""
    wanted = recipe.bits.data.tokenizer
    if isinstance(wanted, BpeRecipe):
        return BpeTokenizer.train((document["text"] for document in train), wanted.vocab_size)
    if wanted.kind == "char":
        return CharTokenizer.train(document["text"] for document in every)
    if not (gpt2_folder / "vocab.bpe").exists():
        raise UserError(
            f"{gpt2_folder}: no GPT-2 vocabulary; run python -m pipeline.download --pins config/data/gpt2_bpe.yaml"
        )
    return Gpt2Tokenizer(gpt2_folder)


_worker: Tokenizer


def _start_worker(tokenizer: Tokenizer) -> None:
    global _worker
    _worker = tokenizer


def _encode(texts: list[str]) -> list[list[int]]:
    return [_worker.encode(text) for text in texts]


def encode(documents: list[Document], tokenizer: Tokenizer, threads: int) -> Iterator[list[int]]:
    """Token ids of each document, in order, the separator first where the tokenizer has one."""
    head = [] if tokenizer.separator is None else [tokenizer.separator]
    chunks = [[d["text"] for d in documents[i : i + CHUNK]] for i in range(0, len(documents), CHUNK)]
    if threads > 1 and len(chunks) > 1 and not isinstance(tokenizer, Gpt2Tokenizer):
        with ProcessPoolExecutor(threads, get_context("fork"), _start_worker, (tokenizer,)) as pool:
            for encoded in pool.map(_encode, chunks):
                yield from (head + ids for ids in encoded)
    else:
        for chunk in chunks:
            yield from (head + tokenizer.encode(text) for text in chunk)


def join(documents: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All tokens in a row, and where each document starts."""
    lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
    tokens = np.fromiter((i for ids in documents for i in ids), dtype=np.int64, count=int(lengths.sum()))
    return tokens, np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def save_starts(path: Path, starts: NDArray[np.int64]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, starts.astype("<i8"))
    write_bytes(path, buffer.getvalue())


def prepare(recipe_path: Path, data: Path | None, out: Path | None, threads: int, gpt2_folder: Path) -> str:
    """Run the stage; returns the line it prints."""
    recipe = load_recipe(recipe_path)
    data, out = data or data_dir(recipe), out or tokens_dir(recipe)
    documents = read_documents(data)
    train, validation = split_documents(documents, recipe.bits.data.split)
    tokenizer = make_tokenizer(recipe, train, documents, gpt2_folder)
    if tokenizer.vocab_size != recipe.bits.model.vocab_size:
        raise UserError(
            f"{recipe_path}: bits.model.vocab_size is {recipe.bits.model.vocab_size}, the tokenizer of this corpus "
            f"has {tokenizer.vocab_size}"
        )
    train_tokens, train_starts = join(list(encode(train, tokenizer, threads)))
    val_tokens, val_starts = join(list(encode(validation, tokenizer, threads)))
    context = recipe.bits.model.context
    for name, tokens in (("training", train_tokens), ("validation", val_tokens)):
        if len(tokens) < context + 1:
            raise UserError(
                f"{data}: the {name} split has {len(tokens)} tokens, one window needs {context + 1} "
                f"(bits.model.context {context} and its target): give more text or a smaller context"
            )
    names = train_shards(recipe)
    for name, piece in zip(names, np.array_split(train_tokens, len(names)), strict=True):
        write_shard(out / name, piece)
    write_shard(out / "val_000000.bin", val_tokens)
    save_starts(out / "train_documents.npy", train_starts)
    save_starts(out / "val_documents.npy", val_starts)
    write_json(out / "tokenizer.json", tokenizer.describe())
    questions = 0
    with open(data / "choices.jsonl", encoding="utf-8") as file:
        rows = [tokenised(json.loads(line), tokenizer) for line in file]
        questions = len(rows)
    write_json(out / "choices.json", rows)
    counts = Counter(options for document in validation for options in document.get("choices", ()))
    content = {
        "tokenizer": recipe.bits.data.tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "train": {"tokens": len(train_tokens), "documents": len(train)},
        "validation": {
            "tokens": len(val_tokens),
            "documents": len(validation),
            "bytes": sum(len(document["text"].encode()) for document in validation),
            # How often a choice among so many equally likely options was made: the information of the split.
            "choices": {str(options): count for options, count in sorted(counts.items())},
        },
        "questions": questions,
        "sha256": {name: sha256_of(out / name) for name in [*names, "val_000000.bin"]},
    }
    write_json(out / "tokens.json", content)
    floor = floor_nats(content) / len(val_tokens)
    return f"{out}: {len(train_tokens):,} + {len(val_tokens):,} tokens, vocabulary {tokenizer.vocab_size}" + (
        f", floor {floor:.4f} nats/token" if floor else ""
    )


def floor_nats(tokens_json: dict[str, Any]) -> float:
    """Information of the validation split in nats, or 0 where nobody knows it. For reading, never hashed."""
    choices = tokens_json["validation"]["choices"]
    return math.fsum(count * math.log(int(options)) for options, count in choices.items())


def tokenised(question: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """A question's token ids; an ending is what the context's tokens are followed by in context + ending."""
    head = [] if tokenizer.separator is None else [tokenizer.separator]
    endings = [tokenizer.encode(ending) for ending in question["endings"]]
    return {
        "context": head + tokenizer.encode(question["context"]),
        "endings": endings,
        "bytes": [len(ending.encode()) for ending in question["endings"]],
        "label": question["label"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Documents to token shards.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of documents.jsonl (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="folder to write (default: from the recipe)")
    parser.add_argument("--threads", type=int, default=1, help="processes; never changes a bit")
    parser.add_argument("--gpt2", type=Path, default=GPT2_BPE, help="folder of GPT-2's vocabulary files")
    args = parser.parse_args()
    print(prepare(args.recipe, args.data, args.out, args.threads, args.gpt2))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
