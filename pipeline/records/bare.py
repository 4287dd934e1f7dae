"""Python code without what cannot change a result: docstrings, types, and the words that a user reads."""

from __future__ import annotations

import ast
from typing import TypeVar

Node = TypeVar("Node", bound=ast.AST)
TELLS = {"print", "warn", "debug", "info", "warning", "error"}  # print(…), warnings.warn(…), logger.info(…)
DESCRIBED = {
    "ArgumentParser",
    "add_argument",
    "add_argument_group",
    "add_mutually_exclusive_group",
    "add_parser",
    "tqdm",
}
ACTS = (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)  # expressions that may do more than give a value
PURE = {"str", "repr", "len", "list", "sorted", "join"}  # calls that do nothing but give a value
DESCRIPTIONS = {"help", "description", "desc", "unit", "metavar", "epilog"}


def without_docstrings(tree: Node) -> Node:
    """The tree, in place, without docstrings."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _name(function: ast.expr) -> str:
    """The last part of what is called."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


class _Bare(ast.NodeTransformer):
    """Drops messages and types. What a message computes stays, but for an exception's: nothing goes on after that."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        node.cause = None
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.AST]:
        if _name(node.test) == "TYPE_CHECKING":
            return [self.visit(child) for child in node.orelse]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = _name(node.func)
        if name in TELLS:
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            node.args = [n for arg in given for n in ast.walk(arg) if isinstance(n, ast.expr) and isinstance(n, ACTS)]
            node.keywords = []
        if name in DESCRIBED:
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in DESCRIPTIONS]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def _acts(value: ast.AST) -> bool:
    """Whether computing a value may do more than give it."""
    acting = [node for node in ast.walk(value) if isinstance(node, ACTS)]
    return any(not isinstance(node, ast.Call) or _name(node.func) not in PURE for node in acting)


def _read(scope: ast.AST) -> set[str]:
    """The names that a scope reads, or hands to another."""
    found: set[str] = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            found |= set(node.names)
    return found


class _Unread(ast.NodeTransformer):
    """Drops what was assigned for messages only, where computing it does nothing else."""

    def __init__(self, only_told: set[str]) -> None:
        self.only_told = only_told

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node  # its names are read from elsewhere

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        told = all(isinstance(target, ast.Name) and target.id in self.only_told for target in node.targets)
        return None if told and not _acts(node.value) else node


def _fill(tree: ast.AST) -> None:
    """A body that has become empty says `pass`."""
    for node in ast.walk(tree):
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]


def bare(tree: ast.Module) -> tuple[ast.Module, dict[str, str]]:
    """The tree, in place, without docstrings, messages and types; and, by name, the module's texts that only its
    messages read: another module may read them.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    before, all_before = [_read(function) for function in functions], _read(tree)
    bared: ast.Module = _Bare().visit(without_docstrings(tree))
    for function, read in zip(functions, before, strict=True):
        _Unread(read - _read(function)).generic_visit(function)
    only_told, texts = all_before - _read(bared), {}
    for node in list(bared.body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _is_text(node.value):
            name = node.targets[0].id
            if name in only_told:
                texts[name] = written(node)
                bared.body.remove(node)
    _fill(bared)
    return bared, texts


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Constant) and isinstance(value.value, str))


def written(node: object) -> str:
    """A tree as text, the same under every version of Python: what is empty is left out."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({', '.join(f'{name}={written(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(written, node))}]"
    return repr(node)
