"""Images to shards.

    python -m pipeline.prepare_images --recipe tests/recipes/patterns.yaml
    results/data/patterns-…/packed: 3,000 + 500 images of 16 x 16 in 8 classes

Writes train_000000.bin and val_000000.bin (pipeline/data/images.py) and last tokens.json: counts, shape and digests. The first
images are for training, the last for validation, as many as the recipe says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_json
from pipeline.data.contents import ImageTokens
from pipeline.data.corpus import Corpus
from pipeline.data.images import write_shard
from pipeline.recipe import ImageData, load_recipe
from pipeline.recipe.paths import IMAGES, SUMMARY, VALIDATION, data_dir, tokens_dir, train_shards


def prepare(recipe_path: Path, data: Path | None, out: Path | None) -> str:
    """Run the stage; returns the line it prints."""
    recipe = load_recipe(recipe_path)
    wanted = recipe.bits.data
    if not isinstance(wanted, ImageData):
        raise UserError(f"{recipe_path}: bits.data.kind {wanted.kind}; python -m pipeline.prepare_text prepares texts")
    source, data, out = wanted.source, data or data_dir(recipe), out or tokens_dir(recipe)
    content = np.memmap(Corpus(data).file(IMAGES), dtype=np.uint8, mode="r")
    records = content.reshape(-1, 1 + source.height * source.width)
    (shard,) = train_shards(recipe)
    parts = {shard: records[: source.training], VALIDATION: records[source.training :]}
    made = {name: write_shard(out / name, part, source) for name, part in parts.items()}
    record: ImageTokens = {
        "train": {"images": source.training},
        "validation": {"images": source.validation},
        "height": source.height,
        "width": source.width,
        "classes": source.classes,
        "sha256": {name: written.sha256 for name, written in made.items()},
    }
    write_json(out / SUMMARY, record)
    return (
        f"{out}: {source.training:,} + {source.validation:,} images of {source.height} x {source.width} "
        f"in {source.classes} classes"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Images to shards.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of images.bin (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="folder to write (default: from the recipe)")
    args = parser.parse_args()
    print(prepare(args.recipe, args.data, args.out))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
