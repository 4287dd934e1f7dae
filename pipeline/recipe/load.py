"""Recipe files: YAML in, a Recipe or one message out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cuda_ops.errors import UserError
from pipeline.recipe.recipe import Recipe


def _keys(content: Any, path: tuple[int | str, ...]) -> list[str]:
    """pydantic's path to a value as the user wrote it: without the tags of unions, which are no keys."""
    found = []
    for i, part in enumerate(path):
        known = (isinstance(content, dict) and part in content) or (isinstance(content, list) and isinstance(part, int))
        if known or i == len(path) - 1:
            found.append(str(part))
            content = content[part] if known else None
    return found


def parse_recipe(content: Any, origin: str) -> Recipe:
    """Validate a parsed YAML document; a UserError names each offending key, its value and what is allowed."""
    try:
        # Through JSON, so that YAML lists become tuples while strings never become numbers.
        return Recipe.model_validate_json(json.dumps(content))
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(_keys(content, item["loc"])) or "(whole recipe)"
            given = item.get("input")
            shown = "" if isinstance(given, dict) else f", given {given!r}"
            lines.append(f"{origin}: {key}: {item['msg']}{shown}")
        raise UserError("\n       ".join(lines)) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-8 is a number, as in YAML 1.2 and JSON; PyYAML alone wants 1.0e-8."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe file."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; see config/recipes/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    return parse_recipe(content, str(path))


def as_written(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values that parse_recipe reads again; what is None is left out."""
    content: dict[str, Any] = json.loads(recipe.model_dump_json(exclude_none=True))
    return content
