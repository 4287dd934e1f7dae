"""Write the digests of a run: digests.json, SHA256SUMS for `sha256sum -c`, and provenance.json, an in-toto statement.

python -m pipeline.digest --recipe config/recipes/fables.yaml
results/runs/fables/digests.json: 15 digests
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops.errors import exit_on_user_error
from pipeline.base.files import sha256_of, write_bytes, write_json
from pipeline.machine.room import check_run
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import DIGESTS, PROVENANCE, SUMS, run_dir
from pipeline.records.catalogue import run_files
from pipeline.records.contents import Digests
from pipeline.records.digests import entries
from pipeline.records.provenance import statement


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the digests of a run.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="folder of the run (default: from the recipe)")
    args = parser.parse_args()
    check_run(args.run)
    recipe = load_recipe(args.recipe)
    run = args.run or run_dir(recipe)
    found = entries(recipe, run)
    digests: Digests = {entry.key: entry.digest for entry in found}
    write_json(run / DIGESTS, digests)
    names = [*run_files(recipe), DIGESTS]
    write_bytes(run / SUMS, "".join(f"{sha256_of(run / name)}  {name}\n" for name in names).encode())
    write_json(run / PROVENANCE, statement(recipe, run))
    print(f"{run / DIGESTS}: {len(found)} digests")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
