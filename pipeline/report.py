"""One self-contained page for a run: curves, scores, samples, spikes, digests, receipts.

    python -m pipeline.report --recipe config/recipes/fables.yaml
    results/runs/fables/report.html: 229 KiB

The page is for reading: it holds times and hosts, so it has no digest. It loads nothing from anywhere. Its sections
are functions of pipeline/pages/sections.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops.errors import exit_on_user_error
from pipeline.base.files import write_bytes
from pipeline.machine.room import check_run
from pipeline.pages.run import load_run
from pipeline.pages.run_page import run_page
from pipeline.recipe import load_recipe
from pipeline.recipe.load import recipe_file
from pipeline.recipe.paths import REPORT, run_dir, tokens_dir
from pipeline.records.present import present


def main() -> int:
    parser = argparse.ArgumentParser(description="One self-contained page for a run.")
    parser.add_argument("--recipe", type=recipe_file, required=True)
    parser.add_argument("--run", type=Path, help="folder of the run (default: from the recipe)")
    parser.add_argument("--tokens", type=Path, help="folder of the shards (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="page to write (default: report.html of the run)")
    args = parser.parse_args()
    check_run(args.run)
    recipe = load_recipe(args.recipe)
    run = load_run(recipe, args.recipe, args.run or run_dir(recipe), args.tokens or tokens_dir(recipe))
    out, page = args.out or run.folder / REPORT, run_page(run).encode()
    write_bytes(out, page)
    if note := present(run.folder, recipe).note():
        print(f"note: {note}")
    print(f"{out}: {len(page) // 1024} KiB")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
