"""Publish the digests and the chain of a run: by hand only, and with a reason in the commit.

python -m pipeline.bless --recipe config/recipes/fables.yaml
config/expected/fables.json: 15 digests, 3 changed: train/step_000250.safetensors, …
config/expected/chains/fables.tsv: 1000 steps
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops.errors import exit_on_user_error
from pipeline.base import chain
from pipeline.base.files import write_json
from pipeline.machine.room import check_run
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import run_dir
from pipeline.records.catalogue import chains, files, folders
from pipeline.records.digests import EXPECTED, entries, published


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish the digests of a run. By hand only.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="folder of the run (default: from the recipe)")
    args = parser.parse_args()
    check_run(args.run)
    recipe = load_recipe(args.recipe)
    run = args.run or run_dir(recipe)
    new = {entry.key: entry.digest for entry in entries(recipe, run)}
    old = published(recipe.name)
    changed = sorted(key for key in {*new, *old} if new.get(key) != old.get(key))
    path = EXPECTED / f"{recipe.name}.json"
    write_json(path, new)
    print(f"{path}: {len(new)} digests, {len(changed)} changed" + (f": {', '.join(changed)}" if changed else ""))
    pieces = files(chains(recipe), folders(recipe, run=run))
    lines = [line for piece in pieces for line in chain.read(piece)]
    steps = EXPECTED / "chains" / f"{recipe.name}.tsv"
    chain.write(steps, lines)
    print(f"{steps}: {len(lines)} steps")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
