"""pytest tests/models/test_flat.py

The flat space: offsets, shards that cover it once, parts of parameters, ranges of one key, positions and names.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.flat import Flat, Parameter, Shards

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


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 16, 40, 1000]))
def test_shards_hold_every_element_once(ranks: int, length: int) -> None:
    """Of every range all ranks have as much; in_order brings the shards of all back, whole or by chunks."""
    flat = Flat(TABLE, 48)
    shards = Shards(flat.size, ranks, 2, length)
    assert (len(shards.ranges) > 1) == (ranks > 1 and length < flat.size)
    everything = torch.arange(flat.size)
    rows = torch.full((ranks, shards.size), -1)
    for rank in range(ranks):
        for piece, (begin, end) in zip(shards.pieces(rank), shards.ranges, strict=True):
            assert (piece.end - piece.begin) * ranks == end - begin
            assert piece.begin % 2 == 0
            rows[rank, piece.at : piece.at + piece.end - piece.begin] = everything[piece.begin : piece.end]
    out = torch.empty_like(everything)
    shards.in_order(out, rows)
    assert torch.equal(out, everything)
    halves = torch.empty(flat.size // 2, dtype=torch.int64)
    shards.in_order(halves, rows[:, ::2])
    assert torch.equal(halves, everything[::2])
    for name, parameter in TABLE.items():
        parts = sorted(flat.part(name, p.begin, p.end) for rank in range(ranks) for p in shards.pieces(rank))
        assert [i for a, b in parts for i in range(a, b)] == list(range(parameter.size))


def test_ranges_join_neighbours_of_one_key() -> None:
    flat = Flat(TABLE, 8)
    assert flat.ranges(0, 24, lambda p: p.decay) == [(0, 12, True), (12, 19, False), (19, 22, True), (22, 24, False)]
    assert flat.ranges(12, 24, lambda p: p.rate) == [(0, 5, 1.0), (5, 7, 2.0), (7, 12, 1.0)]
    assert flat.ranges(6, 12, lambda p: p.decay) == [(0, 6, True)]
