"""Show what makes a stage run again: its trigger, part by part.

    python -m pipeline.trigger train --recipe config/recipes/fables.yaml
    train  1c5e…  … parts of … modules
    train                  83fa…
    base.chain             0b1d…
    ops.attention          5f0c…

A part is the digest of a module without comments, messages and types, or of an op's sources. Two checkouts whose parts
are equal give the same bits from the same inputs (pipeline/records/code_digest.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from cuda_ops.errors import exit_on_user_error
from pipeline.recipe import load_recipe
from pipeline.records.code_digest import modules_of, parts, trigger


def main() -> int:
    parser = argparse.ArgumentParser(description="Show what makes a stage run again, part by part.")
    parser.add_argument("stage", nargs="+", help="such as train or evaluate")
    parser.add_argument("--recipe", type=Path, required=True)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    for stage in args.stage:
        name = f"pipeline.{stage.removeprefix('pipeline.')}"
        found = parts(name, recipe)
        print(f"{stage}  {trigger(name, recipe)}  {len(found)} parts of {len(modules_of(name))} modules")
        print(
            tabulate([(part, digest[:12]) for part, digest in found.items()], tablefmt="plain", disable_numparse=True)
        )
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
