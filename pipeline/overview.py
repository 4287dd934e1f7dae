"""One page over many recipes: a table of their runs, and the loss curves of all in one picture.

    python -m pipeline.overview --out results/overview.html config/recipes/*.yaml
    results/overview.html: 2 runs; not run here: shakespeare_gpt2

Runs are read from where the recipes put them. A recipe without a finished run is named and left out. Exit code 2 if
none has one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_bytes
from pipeline.pages.overview_page import overview_page
from pipeline.pages.run import load_run
from pipeline.recipe import load_recipe
from pipeline.recipe.load import recipe_file
from pipeline.recipe.paths import DIGESTS, OVERVIEW, run_dir, tokens_dir


def main() -> int:
    parser = argparse.ArgumentParser(description="One page over many recipes.")
    parser.add_argument("recipes", type=recipe_file, nargs="+", help="recipe files")
    parser.add_argument("--out", type=Path, default=OVERVIEW, help="page to write")
    args = parser.parse_args()
    runs, absent = [], []
    for path in dict.fromkeys(args.recipes):
        recipe = load_recipe(path)
        folder = run_dir(recipe)
        if (folder / DIGESTS).exists():
            runs.append(load_run(recipe, path, folder, tokens_dir(recipe)))
        else:
            absent.append(recipe.name)
    if not runs:
        raise UserError(f"no finished run of {', '.join(absent)}: run snakemake --cores all reproduction")
    write_bytes(args.out, overview_page(runs, absent, args.out).encode())
    rest = f"; not run here: {', '.join(absent)}" if absent else ""
    print(f"{args.out}: {len(runs)} run{'s' if len(runs) > 1 else ''}{rest}")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
