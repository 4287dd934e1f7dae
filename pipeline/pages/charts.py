"""What the charts of all pages share: their style, and inline SVG."""

from __future__ import annotations

import io
from typing import Any

# Okabe and Ito 2008: safe for colour-blind eyes.
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#767676"


def subplots(rows: int, size: tuple[float, float], **options: Any) -> Any:
    """A figure of `rows` axes, one below the other, and its axes. Text stays text, and ids are the same each time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "samebits", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    return plt.subplots(rows, 1, figsize=size, layout="constrained", **options)


def svg(figure: Any) -> str:
    """The figure as an SVG element, without a date; the figure is closed."""
    import matplotlib.pyplot as plt

    for axes in figure.axes:
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
