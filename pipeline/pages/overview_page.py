"""The page over many runs: a table, and the loss curves of all in one picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.pages import charts
from pipeline.pages.charts import PALETTE
from pipeline.pages.render import Section, fill, page
from pipeline.pages.run import Run
from pipeline.recipe.paths import REPORT


def speed(run: Run) -> str:
    """Units per second while training, all segments together."""
    trained = [r for r in run.receipts if r["stage"].startswith("train")]
    rates = [(r.get("tokens_per_second", r.get("images_per_second")), r["seconds"]) for r in trained]
    known = [(rate, seconds) for rate, seconds in rates if rate is not None]
    total = sum(seconds for _, seconds in known)
    return f"{sum(rate * seconds for rate, seconds in known) / total:,.0f} {run.unit}s" if total else ""


def row(run: Run, out: Path) -> dict[str, Any]:
    """One line of the table. The link is relative to the page's own folder."""
    last = run.loss(run.evals[-1]) if run.evals else None
    count, unequal = len(run.digests), len(run.unequal)
    verdict, words = "unpublished", f"{count} unpublished"
    if run.published:
        verdict = "differ" if unequal else "equal"
        words = f"{unequal} of {count} DIFFER" if unequal else f"all {count} equal"
    report = run.folder / REPORT
    return {
        "name": run.recipe.name,
        "description": run.recipe.description,
        "link": Path(os.path.relpath(report, out.parent)).as_posix() if report.exists() else "",
        "parameters": f"{run.recipe.bits.model.parameters:,}",
        "steps": f"{run.recipe.bits.steps:,}",
        "loss": f"{run.lines[-1].loss:.4f}" if run.lines else "",
        "validation": "" if last is None else f"{last:.4f}",
        "scores": ", ".join(f"{kind} {100 * share:.1f}%" for kind, (share, _) in run.shares().items()),
        "digests": words,
        "verdict": verdict,
        "speed": speed(run),
    }


ROW = 0.2  # inches of a row of the legend
LINES = {"fp32": "-", "int8x3": "--", "int8x1": ":"}


def looks(runs: list[Run]) -> list[tuple[str, str]]:
    """Colour and line of each run: runs that differ in their numerics alone share a colour."""
    kinds = [run.recipe.bits.model_copy(update={"numerics": "fp32"}).model_dump_json() for run in runs]
    families = list(dict.fromkeys(kinds))
    return [
        (PALETTE[families.index(kind) % len(PALETTE)], LINES[run.recipe.bits.numerics])
        for kind, run in zip(kinds, runs, strict=True)
    ]


def curves(runs: list[Run]) -> Section:
    """Training loss of every run over what it has read, a running mean; crosses are validation losses."""
    units = sorted({run.unit for run in runs})

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        for (colour, style), run in zip(looks(runs), runs, strict=True):
            each = run.recipe.bits.units
            x, y = charts.thin(
                [line.step * each for line in run.lines], charts.smooth([line.loss for line in run.lines])
            )
            axes.plot(x, y, style, color=colour, linewidth=1.5, label=run.recipe.name)
            points = [(e["step"] * each, run.loss(e)) for e in run.evals]
            if points:
                axes.plot(*zip(*points, strict=True), "x", color=colour, markersize=5, markeredgewidth=1.4)
        shown = [line.loss for run in runs for line in run.lines]
        charts.log_axis(axes, min(shown), max(shown))
        axes.set_xscale("log")
        axes.set_xlabel(f"{' or '.join(f'{unit}s' for unit in units)} read")
        axes.set_ylabel(f"nats per {' or '.join(units)}")
        axes.legend(loc="lower center" if narrow else "lower left", bbox_to_anchor=(0.5, 1.0) if narrow else (0, 1.0),
                    ncols=charts.columns(names, figure.get_figwidth()), borderaxespad=0.2)  # fmt: skip

    names = [run.recipe.name for run in runs]
    wide, narrow = (
        (width, height + ROW * -(-len(runs) // charts.columns(names, width)))
        for width, height in ((9.2, 4.2), (4.3, 3.6))
    )
    chart = charts.chart("training loss of all runs", draw, wide, narrow)
    caption = (
        "Training loss over what was read, as a running mean; crosses are validation losses. A lower line is a better model "
        "only of the same text and tokenizer. Runs that differ in their numerics alone share a colour: fp32 is drawn whole, int8x3 "
        "dashed, int8x1 dotted."
    )
    return Section("Loss", fill("figure", chart=chart, caption=caption))


def overview_page(runs: list[Run], absent: list[str], out: Path) -> str:
    """absent: recipes that have no finished run here."""
    table = fill("runs", rows=[row(run, out) for run in runs], absent=absent)
    drawn = [run for run in runs if run.lines]
    equal = sum(run.published and not run.unequal for run in runs)
    head = fill("overview_head", count=len(runs), equal=equal, published=sum(run.published for run in runs))
    return page("All runs", "overview", head, [Section("Runs", table), *([curves(drawn)] if drawn else [])])
