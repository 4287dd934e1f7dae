"""The order of a sum, read off its results: FPRev (Xie, Gao, Wang and Xue, USENIX ATC 2025) and a form for positive terms.

A sum of n terms is a binary tree with the terms as leaves. Let L(i, j) be the number of leaves under the node where i
and j meet.

Signed terms (FPRev): term i is M, term j is -M, all others 1, and M swallows n ones in fp32, but none in binary64.
Ones added before M and -M have met are lost, so the result is n - L(i, j).

Positive terms only (sums of exponentials and of squares), ours: term h is 1, terms i and j are 3/8 ulp(1), the rest
next to nothing. Alone each is lost against h; together they are 3/4 ulp and count. So the result exceeds 1 exactly if
i and j meet below h, and L(i, j) is n less the number of such h.

From L the tree is built: around a leaf i, the leaves at the same L(i, .) are one subtree, joined in the order of L.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

Tree = int | tuple["Tree", "Tree"]
Sum = Callable[[np.ndarray], np.ndarray]  # [rows, n] fp32 terms to [rows] sums, up to a known exact factor

BIG, HALF_LOST = np.float32(2.0**40), np.float32(0.375 * 2.0**-23)


class NotATree(Exception):
    """The results fit no binary tree: terms are added exactly, in wider arithmetic, or several at once."""


def signed(add: Sum, n: int) -> Tree:
    """The tree of a sum that takes terms of both signs; `add` returns the number of ones that survived."""

    def meet(i: int, others: list[int]) -> list[int]:
        terms = np.ones((len(others), n), np.float32)
        terms[:, i] = BIG
        terms[np.arange(len(others)), others] = -BIG
        return [n - round(float(x)) for x in add(terms)]

    return build(meet, list(range(n)))


def positive(grew: Sum, n: int) -> Tree:
    """The tree of a sum of positive terms; `grew` tells per row whether the sum exceeds its largest term, 1."""

    def meet(i: int, others: list[int]) -> list[int]:
        sizes = []
        for j in others:
            rest = [h for h in range(n) if h not in (i, j)]
            terms = np.zeros((len(rest), n), np.float32)
            terms[:, [i, j]] = HALF_LOST
            terms[np.arange(len(rest)), rest] = 1
            sizes.append(n - int(np.sum(np.asarray(grew(terms), dtype=bool))) if rest else n)
        return sizes

    return build(meet, list(range(n)))


def build(meet: Callable[[int, list[int]], list[int]], leaves: list[int]) -> Tree:
    first, rest = leaves[0], leaves[1:]
    if not rest:
        return first
    sizes = meet(first, rest)
    tree: Tree = first
    count = 1
    for size in sorted(set(sizes)):
        group = [leaf for leaf, s in zip(rest, sizes, strict=True) if s == size]
        count += len(group)
        if count != size:
            raise NotATree(f"{count} leaves lie within a node of {size} around leaf {first}")
        tree = (tree, build(meet, group))
    return tree


# ------------------------------------------------------------------------------------------ the orders of docs/numerics.md


def chain(leaves: list[Tree]) -> Tree:
    tree = leaves[0]
    for leaf in leaves[1:]:
        tree = (tree, leaf)
    return tree


def reduction(leaves: list[Tree]) -> Tree:
    """32 strided partials, each a chain, then the fold; a partial without a value is not a leaf."""
    partials = [leaves[j::32] for j in range(32)]
    p: list[Tree | None] = [chain(part) if part else None for part in partials]
    for width in (16, 8, 4, 2, 1):
        for j in range(width):
            a, b = p[j], p[j + width]
            p[j] = a if b is None else b if a is None else (a, b)
    assert p[0] is not None
    return p[0]


def pairwise(leaves: list[Tree]) -> Tree:
    while len(leaves) > 1:
        pairs: list[Tree] = [(leaves[i], leaves[i + 1]) for i in range(0, len(leaves) - 1, 2)]
        leaves = pairs + (leaves[-1:] if len(leaves) % 2 else [])
    return leaves[0]


# --------------------------------------------------------------------------------------------------------------- for reading


def least(tree: Tree) -> int:
    return tree if isinstance(tree, int) else min(least(tree[0]), least(tree[1]))


def ordered(tree: Tree) -> Tree:
    """Addition commutes: the side with the least leaf is written first."""
    if isinstance(tree, int):
        return tree
    a, b = ordered(tree[0]), ordered(tree[1])
    return (a, b) if least(a) < least(b) else (b, a)


def text(tree: Tree) -> str:
    """(0 1) is 0 + 1; a chain ((a b) c) d is written [a b c d]."""
    if isinstance(tree, int):
        return str(tree)
    parts: list[Tree] = []
    while isinstance(tree, tuple):
        parts.append(tree[1])
        tree = tree[0]
    parts.append(tree)
    words = [text(part) for part in reversed(parts)]
    numbers = [int(w) for w in words] if len(words) > 4 and all(w.isdigit() for w in words) else []
    if numbers and len({b - a for a, b in itertools.pairwise(numbers)}) == 1:
        return f"[{words[0]} {words[1]} .. {words[-1]}]"
    return ("(%s)" if len(words) == 2 else "[%s]") % " ".join(words)
