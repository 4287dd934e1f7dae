"""Draws docs/lanes.svg: the sequences of a step in their lanes, and the tree that adds the lanes, for 1, 2 and 4 ranks.

    python -m tests.tour
    docs/lanes.svg: 16 sequences, 4 lanes, 3 additions over lanes

Every addition is one that pipeline/training/lanes.py makes: the counter of a rank, then the tree over ranks.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from pipeline.recipe import load_recipe
from pipeline.training import lanes

ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "lanes.svg"
RANKS = (1, 2, 4)
INK, FAINT, LEAF, RANK = "#1f2933", "#6b7785", "#f4a259", ("#8fb8de", "#b7d7a8", "#d9c3e8", "#f6d186")
CELL, GAP, LEFT, TOP, LEVEL = 34, 18, 110, 64, 58

Span = tuple[int, int]  # first and last lane of a sum


class Sum:
    """Stands for a buffer: the lanes whose gradients are in it."""

    def __init__(self) -> None:
        self.span: Span | None = None

    def zero_(self) -> Sum:
        self.span = None
        return self

    def __getitem__(self, part: slice) -> Sum:
        return self


def additions(count: int, ranks: int) -> list[tuple[Span, Span]]:
    """What is added to what, in order, as the code does it: left and right as spans of lanes."""
    made: list[tuple[Span, Span]] = []

    def add(out: Sum, left: Sum, right: Sum) -> None:
        assert left.span
        assert right.span
        made.append((left.span, right.span))
        out.span = (left.span[0], right.span[1])

    totals: list[Sum] = []
    with mock.patch.object(lanes.ops, "add", add):
        for rank in range(ranks):
            own = lanes.lanes_of(rank, ranks, count)
            counter, total = lanes.LaneCounter(len(own), Sum), Sum()  # type: ignore[arg-type]
            for lane in own:
                gradient = counter.fresh()
                gradient.span = (lane, lane)  # type: ignore[attr-defined]
                total = counter.push(gradient, 0, 1)  # type: ignore[assignment]
            totals.append(total)
        if ranks > 1:
            rows = mock.MagicMock(shape=(ranks, 1))
            rows.__getitem__.side_effect = totals.__getitem__
            lanes.tree_over_rows(rows)
    return made


def picture(sequences: int, count: int) -> str:
    """The figure as SVG text."""
    each = sequences // count
    lane_width = each * CELL + GAP
    levels = count.bit_length() - 1
    width, bottom = LEFT + count * lane_width + 10, TOP + CELL + 36 + levels * LEVEL
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 30 + 26 * len(RANKS)}" width="{width}" '
        f'height="{bottom + 30 + 26 * len(RANKS)}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><g fill="{INK}">',
        f'<text x="10" y="{TOP + 21}">sequences</text><text x="10" y="{TOP + CELL + 27}">chain of a lane</text>',
        f'<text x="10" y="{TOP + CELL + 36 + LEVEL - 8}">tree over lanes</text></g>',
    ]

    def middle(span: Span) -> float:
        return LEFT + (span[0] + span[1] + 1) * lane_width / 2 - GAP / 2

    def height(span: Span) -> int:
        return TOP + CELL + 24 + (span[1] - span[0] + 1).bit_length() * LEVEL - LEVEL

    for lane in range(count):
        x = LEFT + lane * lane_width
        out.append(
            f'<text x="{middle((lane, lane)):g}" y="{TOP - 14}" text-anchor="middle" fill="{INK}">lane {lane}</text>'
        )
        for k in range(each):
            out.append(f'<rect x="{x + k * CELL}" y="{TOP}" width="{CELL - 4}" height="{CELL - 4}" fill="{LEAF}"/>')
            out.append(
                f'<text x="{x + k * CELL + CELL / 2 - 2:g}" y="{TOP + 20}" text-anchor="middle" fill="{INK}">{lane * each + k}</text>'
            )
        y = height((lane, lane))
        out.append(f'<path d="M{x} {y} H{x + each * CELL - 4}" stroke="{INK}" stroke-width="2" fill="none"/>')
    made = additions(count, 1)
    for left, right in made:
        joined = (left[0], right[1])
        for part in (left, right):
            out.append(
                f'<path d="M{middle(part):g} {height(part)} L{middle(joined):g} {height(joined)}" stroke="{FAINT}" fill="none"/>'
            )
        out.append(f'<circle cx="{middle(joined):g}" cy="{height(joined)}" r="11" fill="{INK}"/>')
        out.append(
            f'<text x="{middle(joined):g}" y="{height(joined) + 4}" text-anchor="middle" fill="#ffffff">+</text>'
        )
    for row, ranks in enumerate(RANKS):
        y = bottom + 12 + row * 26
        out.append(f'<text x="10" y="{y + 14}" fill="{INK}">{ranks} rank{"s" if ranks > 1 else ""}</text>')
        for rank in range(ranks):
            own = lanes.lanes_of(rank, ranks, count)
            x = LEFT + own[0] * lane_width
            out.append(
                f'<rect x="{x}" y="{y}" width="{len(own) * lane_width - GAP}" height="20" fill="{RANK[rank]}"/>'
                f'<text x="{x + 8}" y="{y + 14}" fill="{INK}">rank {rank}</text>'
            )
    return "\n".join([*out, "</svg>"]) + "\n"


def fables() -> tuple[int, int]:
    """Sequences and lanes of a step."""
    batch = load_recipe(ROOT / "config" / "recipes" / "fables.yaml").bits.batch
    return batch.sequences, batch.lanes


if __name__ == "__main__":
    FIGURE.write_text(picture(*fables()), encoding="utf-8")
    print(
        f"{FIGURE.relative_to(ROOT)}: {fables()[0]} sequences, {fables()[1]} lanes, {fables()[1] - 1} additions over lanes"
    )
