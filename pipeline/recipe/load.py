"""Recipe files: YAML in, a Recipe or one message out."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from cuda_ops.errors import UserError
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.values import values

RECIPES = Path(__file__).resolve().parents[2] / "config" / "recipes"


def _keys(content: Any, path: tuple[int | str, ...], named: bool) -> list[str]:
    """pydantic's path to a value as the user wrote it: without the tags of unions, which are no keys.

    named: the last part is a key, even where the user has written none.
    """
    found = []
    for i, part in enumerate(path):
        known = (isinstance(content, dict) and part in content) or (isinstance(content, list) and isinstance(part, int))
        if known or (named and i == len(path) - 1):
            found.append(str(part))
            content = content[part] if known else None
    return found


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _known(path: tuple[int | str, ...]) -> list[str]:
    """The keys that pydantic's path to an unknown one could have ended in."""
    models: list[type[BaseModel]] = [Recipe]
    for part in path[:-1]:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [
                model for field in fields for kind in [field.annotation, *field.metadata] for model in _models(kind)
            ]
        elif isinstance(part, str):  # the tag of a union
            kinds = {model: model.model_fields.get("kind") for model in models}
            models = [model for model, kind in kinds.items() if kind and part in get_args(kind.annotation)] or models
    return sorted({name for model in models for name in model.model_fields})


def _near(given: Any, allowed: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(given), allowed, 1)), None)


def _nearest(given: Any, allowed: list[str]) -> str:
    near = _near(given, allowed)
    return f"; did you mean {near!r}?" if near else ""


PINNED_BY = {  # how to get the digest that a source lacks, by its kind
    "file": "sha256sum FILE prints it; python -m pipeline.own_text --recipe BASE --data FILE writes a recipe with it",
    "url": "sha256sum prints it of the file once it is here",
    "pinned": "python -m pipeline.pin --list PINS prints the source with it",
}


def _told(errors: list[Any]) -> list[Any]:
    """The problems worth a line: a key that is misspelt is not missing as well."""
    misspelt = {
        (*item["loc"][:-1], _near(item["loc"][-1], _known(item["loc"])))
        for item in errors
        if item["type"] == "extra_forbidden"
    }
    return [item for item in errors if item["type"] != "missing" or item["loc"] not in misspelt]


def _message(item: Any, content: Any, origin: str) -> str:
    """One line of a ValidationError: key, problem, value, and the nearest of what is allowed."""
    named = item["type"] in ("missing", "extra_forbidden")
    key = ".".join(_keys(content, item["loc"], named)) or "(whole recipe)"
    given = item.get("input")
    if item["type"] == "extra_forbidden":
        known = _known(item["loc"])
        near = _nearest(item["loc"][-1], known)
        return f"{origin}: {key}: unknown key{near}{' known' if near else '; known'} here: {', '.join(known)}"
    problem = item["msg"].removeprefix("Value error, ")
    if item["type"] == "literal_error":
        problem += _nearest(given, re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    elif item["type"] == "union_tag_invalid":
        problem += _nearest(item["ctx"]["tag"], re.findall(r"'([^']*)'", item["ctx"]["expected_tags"]))
    elif item["type"] == "missing" and item["loc"][-1] == "sha256" and given.get("kind") in PINNED_BY:
        problem += f"; {PINNED_BY[given['kind']]}"
    shown = "" if isinstance(given, dict) else f", given {given!r}"
    return f"{origin}: {key}: {problem}{shown}"


def parse_recipe(content: Any, origin: str) -> Recipe:
    """Validate a parsed YAML document; a UserError names each offending key, its value and what is allowed."""
    try:
        # Through JSON, so that YAML lists become tuples while strings never become numbers.
        return Recipe.model_validate_json(json.dumps(content, allow_nan=False))
    except ValidationError as error:
        lines = [_message(item, content, origin) for item in _told(error.errors())]
        raise UserError("\n       ".join(lines)) from None
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from None


def recipe_file(given: str) -> Path:
    """A recipe's file as every command and `--config recipe=` take it: by its name in config/recipes, or by its path.

    A file or folder of that name hides no recipe; what is neither is taken for a name, unless it looks like a path.
    """
    known, path = RECIPES / f"{given}.yaml", Path(given)
    by_name = len(path.parts) == 1 and (known.is_file() or not (path.exists() or path.suffix))
    return Path(os.path.relpath(known)) if by_name else path


def load_recipe(given: str | Path) -> Recipe:
    """Read and validate a recipe, given by its name or its path: see recipe_file."""
    path = recipe_file(str(given))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        there = {other.stem: other for other in sorted(path.parent.glob("*.yaml"))}
        near = difflib.get_close_matches(path.stem, there, 1)
        hint = f"did you mean {there[near[0]]}?" if near else "see config/recipes/"
        if path.resolve().parent == RECIPES:
            hint += f"; a file of your own is given by its path, as in path/to/{path.name}"
        raise UserError(f"{path}: no such recipe; {hint}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a recipe is a YAML file, see config/recipes/") from None
    return parse_recipe(values(text, str(path)), str(path))


def as_written(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values that parse_recipe reads again; what is None is left out."""
    content: dict[str, Any] = json.loads(recipe.model_dump_json(exclude_none=True))
    return content
