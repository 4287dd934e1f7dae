"""What digests of code ask of a file of the project, kept in results/code: parsing all files takes over a second of
every stage and every plan.

What is kept holds for a content: it is worked out again where the file, or the rules in this file and in bare.py, are
others. It may be deleted at any time.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.records import bare as rules

PACKAGES = ("pipeline", "cuda_ops")
OPS = "cuda_ops.ops"
KEPT = Path("results", "code")


@dataclass(frozen=True)
class Module:
    """A file of the project, without docstrings and comments.

    code: all of it; bare: without messages and types too; texts: constants that only its own messages read, code if
    another module reads them. imports: every name imported, submodules or not, for types too; run_imports: those when it
    runs. reads: names imported from modules, and attributes of anything. families: the packages that it imports from by
    name, as import_module's argument begins; nameless: such an argument that begins with no package of the project.
    ops: the names that it takes from cuda_ops.ops; "*" if it does more with `ops` than to name one.
    """

    code: str
    bare: str
    texts: dict[str, str]
    imports: frozenset[str]
    run_imports: frozenset[str]
    reads: frozenset[str]
    families: frozenset[str]
    nameless: str
    ops: frozenset[str]


def module(path: Path, root: Path) -> Module:
    """A file under root, as it is now."""
    return _version(path, root, path.stat().st_mtime_ns)


@cache
def _version(path: Path, root: Path, changed: int) -> Module:
    text = path.read_text(encoding="utf-8")
    key = hashlib.sha256(f"{_rules()}\n{text}".encode()).hexdigest()
    kept = root / KEPT / f"{'.'.join(path.relative_to(root).with_suffix('').parts)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found.pop("key") == key:
            fields: dict[str, Any] = {name: frozenset(x) if isinstance(x, list) else x for name, x in found.items()}
            return Module(**fields)
    made = parsed(text)
    with suppress(OSError):  # a disk that is full or read-only
        fields = {name: sorted(x) if isinstance(x, frozenset) else x for name, x in vars(made).items()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps({"key": key, **fields}), encoding="utf-8")
        os.replace(beside, kept)
    return made


@cache
def _rules() -> str:
    """What a Module depends on beside the file."""
    texts = [Path(file).read_text(encoding="utf-8") for file in (__file__, str(rules.__file__))]
    return hashlib.sha256("\n".join([sys.version, *texts]).encode()).hexdigest()


def parsed(text: str) -> Module:
    """A file's text read anew."""
    whole = ast.parse(text)
    imports = _imports(list(ast.walk(whole)))
    code = rules.written(rules.without_docstrings(whole))
    tree, texts = rules.bare(ast.parse(text))
    nodes = list(ast.walk(tree))
    families, nameless = _families(nodes)
    return Module(
        code, rules.written(tree), texts, imports, _imports(nodes), _reads(nodes), families, nameless, _ops(nodes)
    )


def _imports(nodes: list[ast.AST]) -> frozenset[str]:
    imports: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(imports)


def _reads(nodes: list[ast.AST]) -> frozenset[str]:
    names = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return frozenset(names | {node.attr for node in nodes if isinstance(node, ast.Attribute)})


def _families(nodes: list[ast.AST]) -> tuple[frozenset[str], str]:
    found, nameless = set(), ""
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module" and node.args:
            prefix = next((str(n.value) for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)), "")
            if prefix.startswith(PACKAGES):
                found.add(prefix)
            else:
                nameless = ast.unparse(node.args[0])
    return frozenset(found), nameless


def _ops(nodes: list[ast.AST]) -> frozenset[str]:
    found: set[str] = set()
    aliases: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "cuda_ops":
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name == "ops"}
        elif isinstance(node, ast.ImportFrom) and node.module == OPS:
            found |= {alias.name for alias in node.names}
    names = [n for n in nodes if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") in aliases]
    named = {id(node.value) for node in names}
    loose = [n for n in nodes if isinstance(n, ast.Name) and n.id in aliases and id(n) not in named]
    return frozenset(found | {node.attr for node in names} | ({"*"} if loose else set()))
