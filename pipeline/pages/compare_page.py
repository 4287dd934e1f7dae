"""The page of a comparison: what was found, where in the network, and at which steps the difference grows."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from pipeline.pages import charts
from pipeline.pages.charts import BLUE, GREEN, ORANGE
from pipeline.pages.render import Section, environment, fill
from pipeline.pages.render import page as whole

if TYPE_CHECKING:
    from pipeline.evidence.comparison import Comparison, Result

MOST_ROWS = 200  # of tensors; --json has all
MOST_LABELS = {False: 28, True: 14}  # of parts of the network along an axis, by whether it is narrow
FLAT_LABELS = 10  # where so many would have room, labels are written along the axis, else upwards


def heads(order: list[str]) -> list[tuple[int, str]]:
    """Where each part of the network begins in the order of computation.

    A part is a name's first word (before, lane.0, gradient); where all have the same, as in a checkpoint, the block
    after it.
    """
    firsts = [name.split("/")[0] if "/" in name else "" for name in order]
    if len(set(firsts)) < 2:
        blocks = [re.match(r"(?:.*/)?(h\.\d+|[^.]*)", name) for name in order]
        firsts = [block[1] if block else "" for block in blocks]
    found: list[tuple[int, str]] = []
    for i, head in enumerate(firsts):
        if head and (not found or found[-1][1] != head):
            found.append((i, head))
    return found


def spaced(parts: list[tuple[int, str]], end: int, gap: float) -> list[tuple[int, str]]:
    """Those whose labels have room: parts at least `gap` long, or where there are none any that far apart. end: of the
    last part.
    """
    ends = [place for place, _ in parts[1:]] + [end]
    long = [part for part, after in zip(parts, ends, strict=True) if after - part[0] >= gap]
    found: list[tuple[int, str]] = []
    for place, name in long or parts:
        if not found or place - found[-1][0] >= gap:
            found.append((place, name))
    return found


def network(r: Result) -> Section | None:
    """The relative difference of each tensor along the computation, if any tensor differs."""
    place = {name: i for i, name in enumerate(r.order)}
    points = [(place[d.name], d.relative) for d in r.network if d.name in place and 0 < d.relative < math.inf]
    if not points:
        return None

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        axes.semilogy(*zip(*points, strict=True), "o", color=ORANGE, markersize=3.5, markeredgewidth=0)
        parts = spaced(heads(r.order), len(r.order), len(r.order) / MOST_LABELS[narrow])
        gaps = [b - a for (a, _), (b, _) in pairwise([*parts, (len(r.order), "")])]
        flat = not narrow and parts and min(gaps) > len(r.order) / FLAT_LABELS
        axes.set_xticks(
            [i for i, _ in parts], [name for _, name in parts], **({"ha": "left"} if flat else {"rotation": 90})
        )
        axes.set_xlim(-1, len(r.order))
        axes.set_ylabel("relative difference (rms)")

    caption = "The tensors that differ, by name."
    if r.step:
        caption = f"The tensors of step {r.step} that differ, in the order of computation."
    chart = charts.chart("difference along the network", draw, (9.2, 3.6), (4.3, 3.6))
    return Section(
        "Where in the network",
        fill("figure", chart=chart, caption=caption),
    )


def growth(r: Result) -> Section | None:
    """How loss, norm and weights part step by step, if there are steps to show."""
    series = {
        name: [(g["step"], g[name]) for g in r.growth if 0 < g.get(name, 0) < math.inf]
        for name in ("loss", "norm", "weights")
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        for (name, points), colour in zip(series.items(), (BLUE, GREEN, ORANGE), strict=False):
            axes.semilogy(*zip(*points, strict=True), "o-", markersize=3.5, linewidth=1.2, color=colour, label=name)
        charts.whole_steps(axes)
        axes.set_xlabel("step")
        axes.set_ylabel("difference of A and B")
        charts.legend_above(axes, False)

    chart = charts.chart("growth of the difference", draw, (9.2, 3.4), (4.3, 3.4))
    return Section(
        "How it grows", fill("figure", chart=chart, caption="Absolute difference of the two sides, step by step.")
    )


def tensors(r: Result) -> Section | None:
    """Every tensor that differs, the first MOST_ROWS of them."""
    if not r.network:
        return None
    shown, more = r.network[:MOST_ROWS], max(0, len(r.network) - MOST_ROWS)
    names = [Markup(escape(d.name).replace("/", Markup("/<wbr>")).replace(".", Markup(".<wbr>"))) for d in shown]
    return Section("Tensors that differ", fill("tensors", shown=list(zip(names, shown, strict=True)), more=more))


def page(found: Comparison) -> str:
    r = found.result
    template = environment().get_template("compare.html.j2")
    head = Markup(template.render(a=found.a.path, b=found.b.path, r=r))
    made = (Section("What was found", fill("found", table=found.table())), network(r), growth(r), tensors(r))
    return whole("Where two runs part", "comparison", head, [section for section in made if section])
