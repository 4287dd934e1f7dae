"""A recipe for a text of one's own: everything of a base recipe but the corpus.

    python -m pipeline.own_text --recipe config/recipes/fables.yaml --data my.txt
    results/recipes/fables-my-1f2e3d4c.yaml

The text (.txt, .jsonl or .parquet with a column `text`) is pinned by its SHA-256, so the same text gives the same recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops.errors import exit_on_user_error
from pipeline.data.own import derive, write
from pipeline.recipe import load_recipe


def main() -> int:
    parser = argparse.ArgumentParser(description="A recipe for a text of one's own.")
    parser.add_argument("--recipe", type=Path, required=True, help="base recipe")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    print(write(derive(load_recipe(args.recipe), args.data)))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
