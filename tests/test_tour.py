"""pytest tests/test_tour.py

docs/tour.md and its figure: every tensor that it names is one that a step computes, and the tree is the code's.
"""

from __future__ import annotations

import re

from pipeline.evidence.trace import step_shapes
from pipeline.recipe import load_recipe
from tests.tour import FIGURE, RANKS, ROOT, additions, fables, picture

RECIPE = ROOT / "config" / "recipes" / "fables.yaml"


def test_every_tensor_of_the_tour_is_one_of_the_step() -> None:
    shapes = step_shapes(load_recipe(RECIPE))
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:lane\.0|after|before)/[\w./]+\b", text))
    assert len(named) > 25
    assert not named - set(shapes)
    steps = text[: text.index("## 4.")]
    order = [name for name in re.findall(r" (lane\.0/[\w./]+)(?:$| +the)", steps, re.MULTILINE) if name in shapes]
    backward = next(i for i, name in enumerate(order) if "/d." in name)
    for part in (order[:backward], order[backward:]):
        assert part == sorted(part, key=list(shapes).index), "the tour walks in the order of computation"


def test_the_figure_is_current_and_its_tree_is_the_one_of_any_ranks() -> None:
    assert FIGURE.read_text(encoding="utf-8") == picture(*fables()), "run python -m tests.tour"
    assert additions(4, 1) == [((0, 0), (1, 1)), ((2, 2), (3, 3)), ((0, 1), (2, 3))]
    for count in (4, 8):
        trees = [set(additions(count, ranks)) for ranks in RANKS]
        assert trees[0] == trees[1] == trees[2]
        assert len(trees[0]) == count - 1
