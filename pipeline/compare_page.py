"""The page of a comparison: what was found, where in the network, and at which steps the difference grows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.comparison import Comparison

TEMPLATES = Path(__file__).resolve().parent / "templates"


def chart(found: Comparison) -> str:
    """Two pictures as inline SVG: the relative difference along the computation, and the differences step by step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    r = found.result
    if not r.network and not r.growth:
        return ""
    plt.rcParams |= {"svg.hashsalt": "samebits", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    figure, (network, growth) = plt.subplots(2, 1, figsize=(9, 6.5), layout="constrained")
    place = {name: i for i, name in enumerate(r.order)}
    points = [(place[d.name], d.relative) for d in r.network if d.name in place and d.relative > 0]
    if points:
        network.semilogy(*zip(*points, strict=True), ".", color="#d55e00", markersize=4)
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
    for name, colour in (("loss", "#0072b2"), ("norm", "#009e73"), ("weights", "#d55e00")):
        series = [(item["step"], item[name]) for item in r.growth if item.get(name)]
        if series:
            growth.semilogy(*zip(*series, strict=True), "o-", markersize=3, linewidth=1, color=colour, label=name)
    growth.set_xlabel("step")
    growth.set_ylabel("difference of A and B")
    if growth.lines:
        growth.legend(frameon=False)
    for axes in (network, growth):
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


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
