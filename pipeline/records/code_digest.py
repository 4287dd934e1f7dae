"""Digests of code: of all that a stage runs, for the record; of what of it may change a bit, for what must run again.

What must run again (`trigger`): the stage's own file; of what it imports, however deep, the rooms that bear bits
(BEARING), with the recipe's own kinds of model, init, data and score only; and the stems of the ops that these name.
Comments, docstrings, messages and types are no code there. `recipe/` acts through `bits:`; machine/, records/,
evidence/ and pages/ never.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, get_args

from cuda_ops.errors import UserError
from pipeline.recipe import Bits, Recipe
from pipeline.recipe.artifacts import Score
from pipeline.recipe.recipe import products_kind
from pipeline.records.modules import OPS, PACKAGES, Module, module

ROOT = Path(__file__).resolve().parents[2]
BEARING = ("base", "data", "models", "training", "scoring")
# Modules of data/ that read one kind of data only, though no kind is called so.
READS = dict.fromkeys(
    (
        "sources", "documents", "blocks", "pinned", "fables", "tokenizers", "bpe", "encode", "prompts", "questions",
        "benchmarks", "windows",
    ),
    "text",
)  # fmt: skip


def module_path(name: str) -> Path | None:
    """The file of a project module, or None if it is not one."""
    if name.split(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def _parsed(path: Path) -> Module:
    return module(path, ROOT)


def _families(path: Path) -> frozenset[str]:
    found = _parsed(path)
    if found.nameless:
        raise UserError(
            f"{path}: import_module({found.nameless}): begin the name with its package, so that what a stage runs is known"
        )
    return found.families


def modules_of(stage: str) -> dict[str, Path]:
    """The stage's module and every project module it imports, however deep, by name."""
    found: dict[str, Path] = {}
    waiting = [stage]
    while waiting:
        name = waiting.pop()
        path = module_path(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting += sorted(_parsed(path).imports)
    return dict(sorted(found.items()))


def code_digest(stage: str) -> str:
    """SHA-256 over the code of a stage, all of it: for provenance, not for what must run again."""
    digest = hashlib.sha256()
    for name, path in modules_of(stage).items():
        digest.update(f"{name}\n{_parsed(path).code}\n".encode())
    return digest.hexdigest()


# ---------------------------------------------------------------- what must run again


def _kinds(annotation: Any) -> set[str]:
    """The kinds of a union of the schema."""
    if hasattr(annotation, "model_fields"):
        return set(get_args(annotation.model_fields["kind"].annotation))
    return set().union(*(_kinds(part) for part in get_args(annotation)))


@cache
def _all_kinds() -> dict[str, set[str]]:
    fields = Bits.model_fields
    data, score = _kinds(fields["data"].annotation), _kinds(Score)
    models = _kinds(fields["model"].annotation) | _kinds(fields["init"].annotation)
    models |= {products_kind(numerics) for numerics in get_args(fields["numerics"].annotation)}
    return {"models": models, "data": data, "scoring": score | data}


def _own_kinds(recipe: Recipe) -> dict[str, set[str]]:
    """By room, the recipe's kinds: the modules named by another kind are another recipe's."""
    data = recipe.bits.data.kind
    return {
        "models": {recipe.bits.model.kind, recipe.bits.init.kind, products_kind(recipe.bits.numerics)},
        "data": {data},
        "scoring": {data, *(score.kind for score in recipe.artifacts.scores)},
    }


def _another_recipes(name: str, own: dict[str, set[str]]) -> bool:
    """Whether a module belongs to a kind of model, data or score that the recipe does not have."""
    _, room, stem = [*name.split("."), "", ""][:3]
    kind = READS.get(stem, stem) if room == "data" else stem
    return room in own and kind in _all_kinds()[room] - own[room]


def bearing_modules(stage: str, recipe: Recipe) -> dict[str, Path]:
    """Of what a stage runs for a recipe, the modules that may change a bit: its own and those of the bearing rooms."""
    own = _own_kinds(recipe)
    found: dict[str, Path] = {}
    waiting = [stage]
    while waiting:
        name = waiting.pop()
        path = module_path(name)
        if path is None or name in found or name.startswith("cuda_ops") or _another_recipes(name, own):
            continue
        found[name] = path
        waiting += sorted(_parsed(path).run_imports)
        for family in _families(path):
            waiting += [family + kind for kind in sorted(own.get(family.split(".")[1], ()))]
    if stage not in found:
        raise UserError(f"{stage}: no such stage")
    rooms = tuple(f"pipeline.{room}." for room in BEARING)
    return {name: path for name, path in sorted(found.items()) if name == stage or name.startswith(rooms)}


def _stem_of() -> dict[str, str]:
    """The stem of each name of cuda_ops.ops: the file of cuda_ops/ops it comes from; "" for one from elsewhere."""
    path = module_path(OPS)
    assert path
    stems: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            stem = node.module.removeprefix(f"{OPS}.") if node.module.startswith(f"{OPS}.") else ""
            stems |= {alias.asname or alias.name: "" if stem.startswith("_") else stem for alias in node.names}
    return stems


def stems_of(modules: dict[str, Path]) -> list[str]:
    """The stems of the ops that the modules name, in order."""
    stems = _stem_of()
    found: set[str] = set()
    for name, path in modules.items():
        used = _parsed(path).ops
        unknown = sorted(used - {"*"} - set(stems))
        if unknown:
            raise UserError(f"{name}: ops.{unknown[0]} is not a name of cuda_ops/ops/__init__.py")
        found |= set(stems.values()) if "*" in used else {stems[op] for op in used}
    return sorted(found - {""})


def _bearing_digest(module: Module, read: frozenset[str]) -> str:
    """SHA-256 of what of a module may change a bit; read: names that modules take from one another."""
    texts = [f"{name}={text}\n" for name, text in module.texts.items() if name in read]
    return hashlib.sha256("".join([module.bare, "\n", *texts]).encode()).hexdigest()


def parts(stage: str, recipe: Recipe) -> dict[str, str]:
    """What must make a stage run again, by name: SHA-256 of each bearing module, of each stem with its Python face."""
    from cuda_ops.build import stem_digests

    modules = bearing_modules(stage, recipe)
    read = frozenset().union(*(_parsed(path).reads for path in modules.values()))
    found = {name.removeprefix("pipeline."): _bearing_digest(_parsed(path), read) for name, path in modules.items()}
    stems = stems_of(modules)
    sources = stem_digests() if stems else {}
    for stem in stems:
        face = module_path(f"{OPS}.{stem}")
        assert face
        found[f"ops.{stem}"] = hashlib.sha256(
            f"{sources[stem]} {_bearing_digest(_parsed(face), read)}".encode()
        ).hexdigest()
    return found


def trigger(stage: str, recipe: Recipe) -> str:
    """SHA-256 over the parts: two equal triggers, and the stage would give the same bits from the same inputs."""
    lines = [f"{name} {digest}\n" for name, digest in parts(stage, recipe).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
