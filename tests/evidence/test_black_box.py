"""pytest tests/evidence/test_black_box.py

The tree of every sum, revealed from outside (tests/evidence/trees.py), is the one that docs/numerics.md specifies.
Controls: a known wrong tree is told from the right one, by both methods, and PyTorch's own sum has another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from tests.evidence import trees
from tests.evidence.black_box import cases, foreign, name_of, revealed, within_a_block

CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_the_tree_is_the_specified_one(name: str) -> None:
    found, expected = revealed(CASES[name]), trees.ordered(CASES[name][2])
    assert found == expected, f"{trees.text(found)}, expected {trees.text(expected)}"


def by(tree: trees.Tree, terms: np.ndarray) -> np.ndarray:
    """The sum of each row along a tree, in fp32."""
    return terms[:, tree] if isinstance(tree, int) else by(tree[0], terms) + by(tree[1], terms)


@pytest.mark.parametrize("order", [trees.chain, trees.pairwise, trees.reduction])
def test_both_methods_find_a_known_tree(order: Callable[[list[trees.Tree]], trees.Tree]) -> None:
    tree = order([*range(37)])
    assert trees.ordered(trees.signed(lambda terms: by(tree, terms), 37)) == trees.ordered(tree)
    assert trees.ordered(trees.positive(lambda terms: by(tree, terms) > 1, 37)) == trees.ordered(tree)


def test_control_two_leaves_exchanged_are_seen() -> None:
    leaves = [*range(40)]
    leaves[3], leaves[4] = 4, 3
    tree = trees.reduction(leaves)
    assert trees.ordered(trees.signed(lambda terms: by(tree, terms), 40)) != trees.ordered(
        trees.reduction([*range(40)])
    )


def test_control_exact_sums_fit_no_tree() -> None:
    with pytest.raises(trees.NotATree):
        trees.signed(lambda terms: terms.astype(np.float64).sum(axis=1), 40)


@pytest.mark.parametrize("tier", ["int8x3", "int8x1"])
def test_within_a_block_of_digits_there_is_no_order(tier: str) -> None:
    """64 and -64 swallow nothing of the ones beside them, wherever they stand: exact, so no tree; of fp32 there is one."""
    n, add = 40, within_a_block(tier)
    for big in (64.0, 2.0**-60):  # a power of two moves the scale of the block only
        pairs = list(itertools.combinations(range(n), 2))
        terms = np.full((len(pairs), n), big / 64, np.float32)
        for row, (i, j) in zip(terms, pairs, strict=True):
            row[i], row[j] = big, -big
        assert {float(x) for x in add(terms)} == {(n - 2) * big / 64}
    with pytest.raises(trees.NotATree):
        trees.signed(add, n)


def test_control_another_library_has_another_tree() -> None:
    n, add = foreign()["torch.sum, 64 terms"]
    assert name_of(trees.ordered(trees.signed(add, n)), n) == "another tree"
