"""What a checkpoint or a run is of, where nobody says: its recipe and its tokens, found by its metadata beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline.recipe import Recipe, load_recipe, parse_recipe, recipe_id
from pipeline.recipe.paths import PROVENANCE, RESULTS, SUMMARY, tokens_dir

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = "unknown"  # the path of a text in a statement, which names it by its digest


def recipe_in(statement: Path) -> Recipe:
    """The recipe that a provenance.json names; the paths of its files are unknown."""
    try:
        content: Any = json.loads(statement.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{statement}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{statement}: expected an object, as a statement of a run is")
    for key in ("predicate", "buildDefinition", "externalParameters", "recipe"):
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise UserError(
            f"{statement}: no predicate.buildDefinition.externalParameters.recipe in it: not a statement of a run; "
            "give --recipe"
        )
    try:
        source = content["bits"]["data"]["source"]
        if source["kind"] == "file":
            source.setdefault("path", UNKNOWN)
    except (KeyError, TypeError, AttributeError):
        pass  # the schema says what is wrong
    return parse_recipe(content, str(statement))


def recipe_of(checkpoint: Path, about: dict[str, Any], digest: str) -> Recipe:
    """The recipe of a checkpoint: the file of its name, of config/recipes or of an own text, or that of the statement
    beside it.

    about: its metadata; digest: its recipe_id.
    """
    name = str(about.get("recipe", ""))
    looked = [folder / f"{name}.yaml" for folder in (ROOT / "config" / "recipes", RESULTS / "recipes")] if name else []
    looked.append(checkpoint.parent / PROVENANCE)
    for path in looked:
        if path.exists():
            recipe = recipe_in(path) if path.name == PROVENANCE else load_recipe(path)
            if recipe_id(recipe) == digest:
                return recipe
    raise UserError(
        f"{checkpoint}: of recipe {name or digest[:12]}, which is not found in {', '.join(map(str, looked))}; give --recipe"
    )


def tokens_of(checkpoint: Path, recipe: Recipe) -> Path:
    """The folder of what was prepared: of the results that the checkpoint lies in, or of those here."""
    own = tokens_dir(recipe)
    places = [own]
    if len(checkpoint.resolve().parents) > 2:  # results/runs/<recipe>/<checkpoint>
        places.insert(0, checkpoint.resolve().parents[2] / own.relative_to(RESULTS))
    for place in places:
        if (place / SUMMARY).exists():
            return place
    raise UserError(f"{own / SUMMARY}: no such file; run the recipe's prepare_text, or give --tokens the folder")
