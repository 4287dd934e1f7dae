"""Documents to token shards.

    python -m pipeline.prepare_text --recipe config/recipes/fables.yaml
    results/data/fables-4bba0161/bpe512-d93e8e63-1: 2,222,265 + 56,388 tokens, vocabulary 512, floor 0.2410 nats/token

Writes llm.c-style shards (train_000000.bin …, val_000000.bin), where documents start (*.npy), tokenizer.json, choices.json (the
tokenised questions) and last tokens.json (counts, digests, largest tokens, the entropy floor's integer counts). The split and
the vocabulary are pure functions of the recipe; documents are encoded in parallel with their order kept. Documents, tokens and
questions are never in memory together; only a text that is split by characters is, once, and the distinct words a BPE learns from.
"""

from __future__ import annotations

import argparse
import io
import math
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import sha256_of, write_json
from pipeline.data.corpus import Corpus, Part, split
from pipeline.data.encode import encode
from pipeline.data.fetch import vocabulary
from pipeline.data.prompts import check_endings, check_prompts
from pipeline.data.questions import write_questions
from pipeline.data.shards import Spool, Written, cut, dtype_of, write_blocks
from pipeline.data.tokenizers import BpeTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer
from pipeline.recipe import BpeTokenizer as BpeRecipe
from pipeline.recipe import Gpt, TextData, load_recipe
from pipeline.recipe.paths import (
    CHOICES,
    GPT2_BPE,
    SUMMARY,
    TOKENIZER,
    TRAIN_STARTS,
    VALIDATION,
    VALIDATION_STARTS,
    data_dir,
    tokens_dir,
    train_shards,
)


def make_tokenizer(data: TextData, train: Part, validation: Part, gpt2_folder: Path) -> Tokenizer:
    """The recipe's tokenizer; a BPE is trained on the training split only."""
    wanted = data.tokenizer
    if isinstance(wanted, BpeRecipe):
        return BpeTokenizer.train((piece for text in train.texts() for piece in text), wanted.vocab_size)
    if wanted.kind == "char":
        return CharTokenizer.train(piece for part in (train, validation) for text in part.texts() for piece in text)
    return Gpt2Tokenizer(vocabulary(gpt2_folder))


@dataclass(frozen=True)
class Encoded:
    """What was written of one side of the split."""

    tokens: int
    files: dict[str, Written]


def write_part(
    part: Part, name: str, shards: list[Path], starts_path: Path, tokenizer: Tokenizer, threads: int, least: int
) -> Encoded:
    """Encode one side of the split into its shards and a file of where documents start; `least` tokens are needed."""
    from tqdm import tqdm

    folder = shards[0].parent
    with closing(Spool(folder, dtype_of(tokenizer.vocab_size))) as tokens, closing(Spool(folder, "<i8")) as starts:
        bar = tqdm(total=part.count, desc=f"{name} split", unit="document", disable=None)
        for ids, begins in encode(part.texts(), tokenizer, threads):
            starts.append(np.array(begins, dtype=np.int64) + tokens.count)
            tokens.append(ids)
            bar.update(len(begins))
        bar.close()
        if tokens.count < least:
            raise UserError(
                f"the {name} split has {tokens.count} tokens, one window needs {least} "
                f"(bits.model.context {least - 1} and its target): give more text or a smaller context"
            )
        made = dict(zip([path.name for path in shards], cut(tokens, shards), strict=True))
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<i8", "fortran_order": False, "shape": (starts.count,)})
        made[starts_path.name] = write_blocks(starts_path, head.getvalue(), starts.blocks(0, starts.count))
        return Encoded(tokens.count, made)


def prepare(recipe_path: Path, data: Path | None, out: Path | None, threads: int, gpt2_folder: Path) -> str:
    """Run the stage; returns the line it prints."""
    recipe = load_recipe(recipe_path)
    wanted, model = recipe.bits.data, recipe.bits.model
    if not isinstance(wanted, TextData) or not isinstance(model, Gpt):
        raise UserError(
            f"{recipe_path}: bits.data.kind {wanted.kind}; python -m pipeline.prepare_images prepares images"
        )
    corpus, out = Corpus(data or data_dir(recipe)), out or tokens_dir(recipe)
    train, validation = split(corpus, wanted.split)
    tokenizer = make_tokenizer(wanted, train, validation, gpt2_folder)
    if tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"{recipe_path}: bits.model.vocab_size is {model.vocab_size}, the tokenizer of this corpus "
            f"has {tokenizer.vocab_size}"
        )
    check_prompts(recipe, tokenizer)
    least = model.context + 1
    shards = [out / name for name in train_shards(recipe)]
    learnt = write_part(train, "training", shards, out / TRAIN_STARTS, tokenizer, threads, least)
    tested = write_part(
        validation, "validation", [out / VALIDATION], out / VALIDATION_STARTS, tokenizer, threads, least
    )
    write_json(out / TOKENIZER, tokenizer.describe())
    questions, asked = write_questions(out / CHOICES, corpus.questions(), tokenizer)
    if recipe.artifacts.wants("choices") and recipe.artifacts.choices.source is None:
        check_endings(out / CHOICES, model.context)
    made = learnt.files | tested.files
    counts: Counter[int] = Counter()
    size = 0
    for document in validation.documents():
        counts.update(document.get("choices", ()))
        size += len(document["text"].encode())
    content = {
        "tokenizer": wanted.tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "train": {"tokens": learnt.tokens, "documents": train.count},
        "validation": {
            "tokens": tested.tokens,
            "documents": validation.count,
            "bytes": size,
            # How often a choice among so many equally likely options was made: the information of the split.
            "choices": {str(options): count for options, count in sorted(counts.items())},
        },
        "questions": questions,
        "sha256": {name: written.sha256 for name, written in made.items()}
        | {TOKENIZER: sha256_of(out / TOKENIZER), CHOICES: asked},
        "largest": {name: written.largest for name, written in made.items() if name.endswith(".bin")},
    }
    write_json(out / SUMMARY, content)
    floor = floor_nats(content) / tested.tokens
    return f"{out}: {learnt.tokens:,} + {tested.tokens:,} tokens, vocabulary {tokenizer.vocab_size}" + (
        f", floor {floor:.4f} nats/token" if floor else ""
    )


def floor_nats(tokens_json: dict[str, Any]) -> float:
    """Information of the validation split in nats, or 0 where nobody knows it. For reading, never hashed."""
    choices = tokens_json["validation"]["choices"]
    return math.fsum(count * math.log(int(options)) for options, count in choices.items())


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
