"""Check a recipe and say what it is.

python -m pipeline.recipe config/recipes/fables.yaml
fables  recipe_id 9fd8…  875,264 parameters, 1000 steps of 16 x 128 tokens in 4 lanes
python -m pipeline.recipe --schema     the JSON schema of a recipe, as workflow/schemas/recipe.schema.json holds it
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.recipe import load_recipe, recipe_id, schema


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.recipe", description="Check a recipe and say what it is.")
    parser.add_argument("recipe", type=Path, nargs="?")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of a recipe instead")
    args = parser.parse_args()
    if args.schema:
        print(schema(), end="")
        return 0
    if args.recipe is None:
        raise UserError("name a recipe file; see config/recipes/")
    recipe = load_recipe(args.recipe)
    bits = recipe.bits
    print(
        f"{recipe.name}  recipe_id {recipe_id(recipe)}  {bits.model.parameters:,} parameters, {bits.steps} steps "
        f"of {bits.batch.sequences} x {bits.model.units} {bits.model.unit}s in {bits.batch.lanes} lanes"
    )
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
