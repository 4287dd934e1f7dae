"""The digest of the code that a stage runs: its module and all project modules it imports, without comments.

    python -m pipeline.records.code_digest pipeline.train
    pipeline.train  6d0c…  (24 modules)

Workflow rules carry it as a parameter, so that an edited comment or docstring reruns nothing and edited code what it must.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "cuda_ops")


def module_path(name: str) -> Path | None:
    """The file of a project module, or None if it is not one."""
    if name.split(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


@cache
def _parsed(path: Path) -> tuple[str, frozenset[str]]:
    """The code of a file without docstrings, and the names it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree), frozenset(imports)


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
        waiting += sorted(_parsed(path)[1])
    return dict(sorted(found.items()))


def code_digest(stage: str) -> str:
    """SHA-256 over the code of a stage."""
    digest = hashlib.sha256()
    for name, path in modules_of(stage).items():
        digest.update(f"{name}\n{_parsed(path)[0]}\n".encode())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="The digest of the code that a stage runs.")
    parser.add_argument("stage", nargs="+")
    for stage in parser.parse_args().stage:
        print(f"{stage}  {code_digest(stage)}  ({len(modules_of(stage))} modules)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
