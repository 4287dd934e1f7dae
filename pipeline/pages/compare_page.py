"""The page of a comparison: what was found, where in the network, and at which steps the difference grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.pages.charts import BLUE, GREEN, ORANGE, subplots, svg

if TYPE_CHECKING:
    from pipeline.evidence.comparison import Comparison

TEMPLATES = Path(__file__).resolve().parent / "templates"


def chart(found: Comparison) -> str:
    """Two pictures as inline SVG: the relative difference along the computation, and the differences step by step."""
    r = found.result
    if not r.network and not r.growth:
        return ""
    figure, (network, growth) = subplots(2, (9, 6.5))
    place = {name: i for i, name in enumerate(r.order)}
    points = [(place[d.name], d.relative) for d in r.network if d.name in place and d.relative > 0]
    if points:
        network.semilogy(*zip(*points, strict=True), ".", color=ORANGE, markersize=4)
    groups: list[tuple[int, str]] = []
    for i, name in enumerate(r.order):
        head = name.split("/")[0] if "/" in name else ""
        if head and (not groups or groups[-1][1] != head):
            groups.append((i, head))
    if groups:
        network.set_xticks([i for i, _ in groups], [head for _, head in groups], rotation=45, ha="right")
        network.set_xlim(-1, len(r.order))
    network.set_ylabel("relative difference (rms)")
    network.set_title(f"tensors of step {r.step} in the order of computation" if r.step else "tensors", fontsize=9)
    for name, colour in (("loss", BLUE), ("norm", GREEN), ("weights", ORANGE)):
        series = [(item["step"], item[name]) for item in r.growth if item.get(name)]
        if series:
            growth.semilogy(*zip(*series, strict=True), "o-", markersize=3, linewidth=1, color=colour, label=name)
    growth.set_xlabel("step")
    growth.set_ylabel("difference of A and B")
    if growth.lines:
        growth.legend(frameon=False)
    return svg(figure)


def page(found: Comparison) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    values: dict[str, Any] = {
        "a": found.a.path,
        "b": found.b.path,
        "table": found.table(),
        "network": found.result.network,
    }
    return environment.get_template("compare.html.j2").render(values, chart=chart(found))
