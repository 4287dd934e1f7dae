"""Documents to token shards.

    python -m pipeline.prepare_text --recipe config/recipes/fables.yaml
    results/data/fables-4bba0161/bpe512-d93e8e63-1: 2,222,265 + 56,388 tokens, vocabulary 512, floor 0.2410 nats/token
    python -m pipeline.prepare_text --compare config/data/kjj0_fineweb10B_gpt2.yaml
    equal: 104 shards of results/data/… have the hashes of config/data/kjj0_fineweb10B_gpt2.yaml

Writes llm.c's shards (train_000000.bin …, val_000000.bin), where documents start (*.npy), tokenizer.json, choices.json (the
tokenised questions) and last tokens.json (counts, digests, largest tokens, the entropy floor's integer counts). The split and
the vocabulary are pure functions of the recipe; documents are encoded in parallel with their order kept. Documents, tokens and
questions are never in memory together; only a text that is split by characters is, once, and the distinct words a BPE learns from.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuda_ops.bounds import MOST_THREADS, whole
from cuda_ops.errors import UserError, exit_on_user_error, writing
from pipeline.base.files import sha256_of, write_json
from pipeline.data.compare_shards import compare_shards
from pipeline.data.contents import Tokens, TrainingSplit, ValidationSplit
from pipeline.data.corpus import Corpus, Part, split
from pipeline.data.encode import encode
from pipeline.data.fetch import vocabulary
from pipeline.data.progress import Progress
from pipeline.data.prompts import check_endings, check_prompts
from pipeline.data.questions import write_questions
from pipeline.data.shard_stream import ShardStream, npy_head
from pipeline.data.shards import BLOCK, Spool, Written, cut, dtype_of, read_shard, write_blocks
from pipeline.data.tokenizers import BpeTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer
from pipeline.recipe import BpeTokenizer as BpeRecipe
from pipeline.recipe import Gpt, Recipe, Split, TextData, load_recipe
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
from pipeline.recipe.pins import FOLDER, load_pins
from pipeline.records.code_digest import trigger


@dataclass(frozen=True)
class Preparation:
    """What is asked for: a recipe over text, its corpus, where to write, with how many processes."""

    recipe: Recipe
    data: TextData
    model: Gpt
    corpus: Corpus
    out: Path
    threads: int
    gpt2: Path

    def check(self, tokenizer: Tokenizer) -> None:
        """What would fail only when everything is encoded."""
        if tokenizer.vocab_size != self.model.vocab_size:
            raise UserError(
                f"{self.recipe.name}: bits.model.vocab_size is {self.model.vocab_size}, the tokenizer of this corpus "
                f"has {tokenizer.vocab_size}"
            )
        check_prompts(self.recipe, tokenizer)

    def check_length(self, name: str, tokens: int) -> None:
        least = self.model.context + 1
        if tokens < least:
            raise UserError(
                f"the {name} split has {tokens} tokens, one window needs {least} "
                f"(bits.model.context {least - 1} and its target): give more text or a smaller context"
            )


@dataclass(frozen=True)
class Made:
    """What was written: shards and starts by name, and what is recorded of the two splits."""

    files: dict[str, Written]
    train: TrainingSplit
    validation: ValidationSplit


def make_tokenizer(data: TextData, train: Part, validation: Part, gpt2_folder: Path) -> Tokenizer:
    """The recipe's tokenizer; a BPE is trained on the training split only."""
    wanted = data.tokenizer
    if isinstance(wanted, BpeRecipe):
        return BpeTokenizer.train((piece for text in train.texts() for piece in text), wanted.vocab_size)
    if wanted.kind == "char":
        return CharTokenizer.train(piece for part in (train, validation) for text in part.texts() for piece in text)
    return Gpt2Tokenizer(vocabulary(gpt2_folder))


def write_part(
    part: Part, name: str, shards: list[Path], starts_path: Path, tokenizer: Tokenizer, asked: Preparation
) -> tuple[int, dict[str, Written]]:
    """Encode one side of the split into its shards and a file of where documents start; returns how many tokens."""
    from tqdm import tqdm

    folder = shards[0].parent
    with (
        writing(folder),
        closing(Spool(folder, dtype_of(tokenizer.vocab_size))) as tokens,
        closing(Spool(folder, "<i8")) as starts,
    ):
        bar = tqdm(total=part.count, desc=f"{name} split", unit="document", disable=None)
        for encoded in encode(part.blocks(), tokenizer, asked.threads):
            starts.append(encoded.starts + tokens.count)
            tokens.append(encoded.tokens)
            bar.update(len(encoded.starts))
        bar.close()
        asked.check_length(name, tokens.count)
        made = dict(zip([path.name for path in shards], cut(tokens, shards), strict=True))
        made[starts_path.name] = write_blocks(starts_path, npy_head(starts.count), starts.blocks(0, starts.count))
        return tokens.count, made


def prepare_split(asked: Preparation, train: Part, validation: Part, tokenizer: Tokenizer) -> Made:
    """Documents or characters on either side, each side in shards of one length."""
    out = asked.out
    shards = [out / name for name in train_shards(asked.recipe)]
    learnt, files = write_part(train, "training", shards, out / TRAIN_STARTS, tokenizer, asked)
    tested, more = write_part(validation, "validation", [out / VALIDATION], out / VALIDATION_STARTS, tokenizer, asked)
    counts: Counter[int] = Counter()
    size = 0
    for document in validation.documents():
        counts.update(document.get("choices", ()))
        size += len(document["text"].encode())
    return Made(
        files | more,
        {"tokens": learnt, "documents": train.count},
        {
            "tokens": tested,
            "documents": validation.count,
            "bytes": size,
            # How often a choice among so many equally likely options was made: the information of the split.
            "choices": {str(options): count for options, count in sorted(counts.items())},
        },
    )


def prepare_shards(asked: Preparation, stream: ShardStream, tokenizer: Gpt2Tokenizer) -> Made:
    """llm.c's shards, the first for validation; its bytes are those of the text that its tokens stand for."""
    progress = Progress(asked.corpus.sizes(), stream.files, stream.tokens)
    for encoded in encode(asked.corpus.blocks_by_file(stream.files), tokenizer, asked.threads):
        stream.append(encoded)
        progress.add(encoded.weight, stream.tokens, encoded.ends)
    progress.close()
    asked.check_length("validation", min(stream.tokens, stream.each))
    asked.check_length("training", max(stream.tokens - stream.each, 0))
    files = stream.finish([VALIDATION, *train_shards(asked.recipe)], (VALIDATION_STARTS, TRAIN_STARTS))
    sizes, tested = tokenizer.sizes(), read_shard(asked.out / VALIDATION)
    size = sum(int(sizes[tested[begin : begin + BLOCK]].sum()) for begin in range(0, len(tested), BLOCK))
    documents = len(np.load(asked.out / VALIDATION_STARTS, mmap_mode="r"))
    return Made(
        files,
        {"tokens": stream.tokens - len(tested), "documents": stream.documents - documents},
        {"tokens": len(tested), "documents": documents, "bytes": size, "choices": {}},
    )


def write_record(asked: Preparation, tokenizer: Tokenizer, made: Made) -> str:
    """Tokenizer, questions, and last the record of all; returns the line that the stage prints."""
    out = asked.out
    write_json(out / TOKENIZER, tokenizer.describe())
    questions, asked_digest = write_questions(out / CHOICES, asked.corpus.questions(), tokenizer)
    if asked.recipe.artifacts.wants("choices") and asked.recipe.artifacts.choices.source is None:
        check_endings(out / CHOICES, asked.model.context)
    content: Tokens = {
        "tokenizer": asked.data.tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "train": made.train,
        "validation": made.validation,
        "questions": questions,
        "sha256": {name: written.sha256 for name, written in made.files.items()}
        | {TOKENIZER: sha256_of(out / TOKENIZER), CHOICES: asked_digest},
        "largest": {name: written.largest for name, written in made.files.items() if name.endswith(".bin")},
    }
    write_json(out / SUMMARY, content)
    floor = floor_nats(content) / made.validation["tokens"]
    return (
        f"{out}: {made.train['tokens']:,} + {made.validation['tokens']:,} tokens, vocabulary {tokenizer.vocab_size}"
        + (f", floor {floor:.4f} nats/token" if floor else "")
    )


def prepare(recipe_path: Path, data: Path | None, out: Path | None, threads: int, gpt2_folder: Path) -> str:
    """Run the stage; returns the line it prints."""
    recipe = load_recipe(recipe_path)
    wanted, model = recipe.bits.data, recipe.bits.model
    if not isinstance(wanted, TextData) or not isinstance(model, Gpt):
        raise UserError(
            f"{recipe_path}: bits.data.kind {wanted.kind}; python -m pipeline.prepare_images prepares images"
        )
    corpus, out = Corpus(data or data_dir(recipe)), out or tokens_dir(recipe)
    asked = Preparation(recipe, wanted, model, corpus, out, threads, gpt2_folder)
    if isinstance(wanted.split, Split):
        train, validation = split(corpus, wanted.split)
        tokenizer = make_tokenizer(wanted, train, validation, gpt2_folder)
        asked.check(tokenizer)
        return write_record(asked, tokenizer, prepare_split(asked, train, validation, tokenizer))
    gpt2 = Gpt2Tokenizer(vocabulary(gpt2_folder))
    asked.check(gpt2)
    code = trigger("pipeline.prepare_text", recipe)
    key = json.dumps([corpus.text["sha256"], corpus.column, gpt2.describe(), wanted.split.tokens, code])
    with writing(out), ShardStream(out, dtype_of(gpt2.vocab_size), wanted.split.tokens, key) as stream:
        return write_record(asked, gpt2, prepare_shards(asked, stream, gpt2))


def floor_nats(tokens_json: Tokens) -> float:
    """Information of the validation split in nats, or 0 where nobody knows it. For reading, never hashed."""
    choices = tokens_json["validation"]["choices"]
    return math.fsum(count * math.log(int(options)) for options, count in choices.items())


def compare(pin_file: Path, recipe_path: Path | None, out: Path | None, against: Path | None) -> int:
    """Hold the shards of a recipe against those that a pin file lists; prints what differs first, returns the exit code."""
    pins = load_pins(pin_file)
    if recipe_path is None and out is None:
        if pins.recipe is None:
            raise UserError(f"{pin_file}: names no recipe whose shards these are; give --recipe or --out")
        recipe_path = FOLDER.parent / "recipes" / f"{pins.recipe}.yaml"
    folder = out or tokens_dir(load_recipe(recipe_path or Path()))
    found = compare_shards(folder, pins, against)
    if found:
        print(found)
        return 1
    print(f"equal: {len(pins.files)} shards of {folder} have the hashes of {pin_file}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Documents to token shards.")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--data", type=Path, help="folder of documents.jsonl (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="folder to write (default: from the recipe)")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=1, help="processes; never changes a bit")
    parser.add_argument("--gpt2", type=Path, default=GPT2_BPE, help="folder of GPT-2's vocabulary files")
    parser.add_argument("--compare", type=Path, metavar="PINS", help="hold the shards against those a pin file lists")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="where the other shards lie, to find the token")
    args = parser.parse_args()
    if args.against and not args.compare:
        raise UserError(f"--against {args.against}: only beside --compare PINS, which says what the shards should be")
    if args.compare:
        return compare(args.compare, args.recipe, args.out, args.against)
    if args.recipe is None:
        raise UserError("name a recipe by --recipe, or a pin file by --compare; see config/recipes/ and config/data/")
    print(prepare(args.recipe, args.data, args.out, args.threads, args.gpt2))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
