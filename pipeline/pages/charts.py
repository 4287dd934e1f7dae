"""What the charts of all pages share: their style, and inline SVG in two widths, of which a page shows the one that
fits.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

# Okabe and Ito 2008: safe for colour-blind eyes.
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#767676"
PALETTE = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.edgecolor": "#8a929a", "axes.linewidth": 0.7, "axes.labelcolor": "#1c2024",
    "xtick.color": "#5b6470", "ytick.color": "#5b6470", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e2e6ea", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
    "figure.constrained_layout.use": True, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.solid_capstyle": "round",
}  # fmt: skip
MOST_POINTS = 1600  # of a line; more are thinned without losing a peak
TICKS = ((1, 2, 3, 5, 8), (1, 2, 5), (1,))  # of a decade; the first of these that gives few enough


def thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """A line of at most about MOST_POINTS points: the least and the greatest value of each bucket, in order."""
    if len(steps) <= MOST_POINTS:
        return list(steps), list(values)
    size = -(-2 * len(steps) // MOST_POINTS)
    kept: list[int] = []
    for begin in range(0, len(steps), size):
        bucket = range(begin, min(begin + size, len(steps)))
        kept += sorted({min(bucket, key=lambda i: values[i]), max(bucket, key=lambda i: values[i])})
    return [steps[i] for i in kept], [values[i] for i in kept]


def smooth(values: Sequence[float], weight: float = 0.05) -> list[float]:
    """Running mean that forgets: for reading only."""
    found: list[float] = []
    for value in values:
        found.append(value if not found else found[-1] + weight * (value - found[-1]))
    return found


def log_axis(axes: Any, low: float, high: float, most: int = 8) -> None:
    """A logarithmic y axis with plain numbers, at most `most` of them or one a decade, if the values span enough for
    one.
    """
    if low <= 0 or high / low <= 4:
        return
    axes.set_yscale("log")
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for digits in TICKS:
        ticks = [d * 10.0**e for e in decades for d in digits if low * 0.9 <= d * 10.0**e <= high * 1.1]
        if len(ticks) <= most:
            break
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()


def whole_steps(axes: Any) -> None:
    """Ticks of the x axis at whole numbers, few enough to be read."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def columns(labels: Sequence[str], width: float) -> int:
    """So many columns of a legend have room beside one another in a figure of `width` inches."""
    return max(1, min(4, int((width - 0.6) / (0.5 + 0.08 * max(map(len, labels), default=0)))))


def legend_above(axes: Any, narrow: bool) -> None:
    """The legend between title and axes, so that it covers no line."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=1 if narrow else 4, borderaxespad=0.2,
            handlelength=1.6, columnspacing=1.4,
        )  # fmt: skip


def svg(figure: Any) -> str:
    """The figure as an SVG element without a date and without names that nothing refers to; the figure is closed."""
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    named = set(re.findall(r"#([\w-]+)", text))
    return re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in named else "", text)


def chart(
    name: str, draw: Callable[[Any, bool], None], wide: tuple[float, float], narrow: tuple[float, float]
) -> Markup:
    """draw(figure, narrow) on figures of two sizes in inches; the page's style shows one of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = []
    for kind, size in (("wide", wide), ("narrow", narrow)):
        with plt.rc_context(STYLE | {"svg.hashsalt": f"samebits {name} {kind}"}):
            figure = plt.figure(figsize=size)
            draw(figure, kind == "narrow")
            parts.append(f'<div class="{kind}" role="img" aria-label="{Markup.escape(name)}">{svg(figure)}</div>')
    return Markup("".join(parts))
