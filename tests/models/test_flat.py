"""pytest tests/models/test_flat.py

The flat space: offsets, shards that cover it once, parts of parameters, ranges of one key, positions and names.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.flat import Flat, Parameter

TABLE = {
    "a": Parameter((3, 4), decay=True),
    "b": Parameter((5,)),
    "c": Parameter((2,), rate=2.0),
    "d": Parameter((1, 3), decay=True),
}


def test_names_lie_one_after_another() -> None:
    flat = Flat(TABLE, 8)
    assert (flat.used, flat.size) == (22, 24)
    assert flat.offsets == {"a": 0, "b": 12, "c": 17, "d": 19}
    buffer = torch.arange(24.0)
    views = flat.views(buffer)
    assert [view[(0,) * view.dim()].item() for view in views.values()] == list(flat.offsets.values())
    assert flat.views(buffer) is views
    for name, view in views.items():
        for index in ((0,) * view.dim(), tuple(n - 1 for n in view.shape)):
            assert flat.located(int(view[index].item())) == (name, index)
    with pytest.raises(AssertionError, match="position 22 lies outside"):
        flat.located(22)


@given(st.sampled_from([1, 2, 4, 8]))
def test_shards_hold_every_element_once(ranks: int) -> None:
    flat = Flat(TABLE, 8)
    for name, parameter in TABLE.items():
        parts = [flat.part(name, *flat.shard(rank, ranks)) for rank in range(ranks)]
        assert [i for a, b in parts for i in range(a, b)] == list(range(parameter.size))


def test_ranges_join_neighbours_of_one_key() -> None:
    flat = Flat(TABLE, 8)
    assert flat.ranges(0, 24, lambda p: p.decay) == [(0, 12, True), (12, 19, False), (19, 22, True), (22, 24, False)]
    assert flat.ranges(12, 24, lambda p: p.rate) == [(0, 5, 1.0), (5, 7, 2.0), (7, 12, 1.0)]
    assert flat.ranges(6, 12, lambda p: p.decay) == [(0, 6, True)]
