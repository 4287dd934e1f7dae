"""Where things lie: every path is a function of the recipe, none of the machine."""

from __future__ import annotations

from pathlib import Path

from pipeline.recipe.data import ImageData
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.strict import digest_of

RESULTS = Path("results")
BUILD = RESULTS / "build"
GPT2_BPE = RESULTS / "data" / "gpt2_bpe"


def data_dir(recipe: Recipe) -> Path:
    """The corpus as documents, shared by the recipes that name it."""
    data = recipe.bits.data
    return RESULTS / "data" / f"{data.name}-{digest_of(data.source)[:8]}"


def tokens_dir(recipe: Recipe) -> Path:
    """Token shards: one folder per corpus, tokenizer and split."""
    data = recipe.bits.data
    if isinstance(data, ImageData):
        return data_dir(recipe) / "packed"
    name = data.tokenizer.kind + str(getattr(data.tokenizer, "vocab_size", ""))
    return data_dir(recipe) / f"{name}-{digest_of(data.split)[:8]}-{data.train_shards}"


def run_dir(recipe: Recipe) -> Path:
    """Everything a run leaves."""
    return RESULTS / "runs" / recipe.name


def train_shards(recipe: Recipe) -> list[str]:
    """File names of the training shards."""
    return [f"train_{i:06d}.bin" for i in range(getattr(recipe.bits.data, "train_shards", 1))]
