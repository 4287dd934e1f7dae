"""pytest tests/evidence/test_power.py

A slice of tests.evidence.power: the harness tells results apart. The same training by stock PyTorch has another result
per micro-batch, and the same one when nothing is changed; ours has one.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.recipe import load_recipe
from tests.evidence.power import Alone, ours, stock, summary


def test_ours_has_one_result_where_stock_training_has_several(tiny: dict[str, Path]) -> None:
    recipe, tokens, threads = load_recipe(tiny["recipe"]), tiny["tokens"], torch.get_num_threads()
    try:
        theirs = [stock(recipe, tokens, Alone(), 1, micro_batch) for micro_batch in (1, 4, 8, 8)]
    finally:
        torch.set_num_threads(threads)
    assert len(set(theirs)) == 3
    assert theirs[2] == theirs[3]
    assert len({ours(recipe, tokens, Alone(), 1, micro_batch) for micro_batch in (1, 4, 8)}) == 1


def test_the_summary_counts_digests() -> None:
    cells = [
        {"threads": t, "micro_batch": 1, "ranks": r, "isa": "v3", "digest": d, "repeats": True}
        for t, r, d in ((1, 1, "a"), (2, 1, "b"), (1, 2, "a"), (2, 2, "c"))
    ]
    cells[3]["repeats"] = False
    found = summary(cells)
    assert (found["cells"], found["distinct"], found["cells_that_repeat"]) == (4, 3, 3)
    assert found["distinct_over"] == {"threads": 2, "micro_batch": 1, "ranks": 1, "isa": 1}
    once = [{key: value for key, value in cell.items() if key != "repeats"} for cell in cells]
    assert "cells_that_repeat" not in summary(once)
