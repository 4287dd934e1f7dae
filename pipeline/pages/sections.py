"""The sections of a run's page: a function each, one per score and one per thing. None where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from pipeline.pages import charts
from pipeline.pages.charts import BLUE, GREEN, GREY, ORANGE
from pipeline.pages.render import Section, fill
from pipeline.pages.run import Run
from pipeline.recipe import as_written
from pipeline.recipe.paths import eval_name
from pipeline.records.spent import SATURNV, together
from pipeline.training.outliers import WINDOW


def curves(run: Run) -> Section | None:
    """Loss, learning rate and gradient norm of every step; spikes are marked."""
    if not run.lines:
        return None
    steps = [line.step for line in run.lines]
    spikes: list[Any] = list(run.spikes["spikes"]) if run.spikes else []

    def series(axes: Any, name: str, colour: str, label: str | None = None) -> None:
        x, y = charts.thin(steps, [getattr(line, name) for line in run.lines])
        axes.plot(x, y, color=colour, linewidth=1.0, label=label)
        marked = [spike for spike in spikes if name in spike["z"]]
        axes.plot([s["step"] for s in marked], [s[name] for s in marked], "v", color=ORANGE, markersize=4, zorder=3)

    def draw(figure: Any, narrow: bool) -> None:
        if narrow:
            loss, norm, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1.5, 1.2])
        else:
            loss, norm, rate = figure.subplot_mosaic(
                [["loss", "loss"], ["norm", "rate"]], height_ratios=[2.4, 1]
            ).values()
        series(loss, "loss", BLUE, "training, each step")
        validation = [(e["step"], run.loss(e)) for e in run.evals]
        if validation:
            loss.plot(
                *zip(*validation, strict=True),
                "o-",
                color=ORANGE,
                markersize=4.5,
                linewidth=1.2,
                label="validation",
            )
        if run.floor:
            loss.axhline(
                run.floor, color=GREEN, linestyle=(0, (5, 3)), linewidth=1.2, label=f"entropy floor {run.floor:.4f}"
            )
        shown = [line.loss for line in run.lines] + ([run.floor] if run.floor else [])
        charts.log_axis(loss, min(shown), max(shown))
        loss.set_ylabel(f"nats per {run.unit}")
        loss.set_title("loss", pad=48 if narrow else 22)
        charts.legend_above(loss, narrow)
        series(norm, "norm", GREY)
        norm.set_title("gradient norm")
        charts.log_axis(norm, min(line.norm for line in run.lines), max(line.norm for line in run.lines), most=4)
        power = math.floor(math.log10(max(line.lr for line in run.lines)))
        rate.plot(*charts.thin(steps, [line.lr / 10.0**power for line in run.lines]), color=GREY, linewidth=1.2)
        rate.set_title(f"learning rate × $10^{{{-power}}}$" if power else "learning rate")
        rate.set_ylim(bottom=0)
        for axes in figure.axes:
            charts.whole_steps(axes)
        for axes in (rate,) if narrow else (norm, rate):
            axes.set_xlabel("step")

    chart = charts.chart(f"loss, gradient norm and learning rate of {run.recipe.name}", draw, (9.2, 5.8), (4.3, 6.4))
    return Section("Curves", fill("curves", chart=chart, marked=bool(spikes), unit=run.unit))


def spikes(run: Run) -> Section | None:
    """The steps whose loss or gradient norm is an outlier, and what is known of each."""
    if run.spikes is None or run.spikes["z"] is None:
        return None
    found = run.spikes["spikes"]
    waiting = sum("parameters" not in spike and "replay" not in spike for spike in found)
    words = fill(
        "spikes", found=found, z=run.spikes["z"], window=WINDOW, steps=len(run.lines),
        waiting=f"{waiting} of them {'is' if waiting == 1 else 'are'}" if waiting else "", flags=run.flags("run", "tokens"),
    )  # fmt: skip
    return Section("Spikes", words)


# ---------------------------------------------------------------------- scores


def loss(run: Run) -> Section | None:
    """Validation loss at every checkpoint."""
    if not run.evals:
        return None
    rows: list[dict[str, float]] = []
    for evaluation in run.evals:
        found = evaluation["validation"]
        bits = math.nan if "images" in found else found.get("nats_per_byte", math.nan) / math.log(2)
        rows.append({"step": evaluation["step"], "loss": run.loss(evaluation), "bits": bits})
    per_byte = all(math.isfinite(row["bits"]) for row in rows)
    return Section("Validation loss", fill("loss", rows=rows, floor=run.floor, unit=run.unit, per_byte=per_byte))


def choices(run: Run) -> Section | None:
    """Multiple-choice questions of the corpus, at the last checkpoint that answered them."""
    answered = [evaluation for evaluation in run.evals if "choices" in evaluation]
    if not answered:
        return None
    found, step = answered[-1]["choices"], answered[-1]["step"]
    endings = [len(nats) for nats in found["nats"]]
    chance = math.fsum(1 / count for count in endings) / len(endings) if endings else 0.0
    number = str(endings[0]) if len(set(endings)) == 1 else "several"
    return Section(
        "Multiple choice",
        fill(
            "share", chance=chance, bars=[("least loss (acc)", found["acc"]), ("least loss per byte (acc_norm)", found["acc_norm"])],
            words=f"{found['questions']} questions with {number} endings each, one of which follows; step {step}.",
            source=f"The loss of every ending is in {eval_name(step)}.",
        ),
    )  # fmt: skip


def accuracy(run: Run) -> Section | None:
    """Share of validation images whose class has the largest logit, at every checkpoint."""
    found = [evaluation for evaluation in run.evals if "accuracy" in evaluation]
    if not found:
        return None
    classes = getattr(run.recipe.bits.model, "classes", 0)
    bars = [(f"step {evaluation['step']:,}", evaluation["accuracy"]["share"]) for evaluation in found]
    words = f"Share of the {found[-1]['accuracy']['images']:,} validation images whose own class has the largest logit."
    return Section("Accuracy", fill("share", chance=1 / classes if classes else 0.0, bars=bars, words=words, source=""))


def benchmark(kind: str) -> Callable[[Run], Section | None]:
    """A published benchmark at the checkpoints that were asked for it: each number with its protocol."""

    def section(run: Run) -> Section | None:
        answered = [evaluation for evaluation in run.evals if kind in evaluation]
        if not answered:
            return None
        each: list[Any] = [dict(evaluation)[kind] for evaluation in answered]
        tables = [BENCHMARKS[kind](found)[1] for found in each]
        rows = [(row[0][0], [value for _, value in row]) for row in zip(*tables, strict=True)]
        title, _, count = BENCHMARKS[kind](each[-1])
        steps = [f"step {evaluation['step']:,}" for evaluation in answered]
        return Section(title, fill("benchmark", rows=rows, steps=steps, words=f"{count}."))

    return section


BENCHMARKS: dict[str, Callable[[dict[str, Any]], tuple[str, list[tuple[str, str]], str]]] = {
    "hellaswag": lambda found: (
        "HellaSwag",
        [
            (f"{name}, {measure}", f"{found[protocol][measure]:.4f}")
            for protocol, name in (("llmc", "llm.c"), ("lm_eval", "lm-evaluation-harness"))
            for measure in ("acc", "acc_norm")
        ],
        f"{found['examples']:,} examples",
    ),
    "lambada": lambda found: (
        "LAMBADA (OpenAI's text)",
        [
            ("last word right (lm-evaluation-harness)", f"{found['acc']:.4f}"),
            ("perplexity of the last word", f"{found['perplexity']:.2f}"),
        ],
        f"{found['texts']:,} texts",
    ),
    "wikitext": lambda found: (
        "WikiText",
        [("word perplexity (lm-evaluation-harness)", f"{found['word_perplexity']:.2f}")],
        f"{found['pages']:,} pages, {found['words']:,} words",
    ),
}
SCORES: dict[str, Callable[[Run], Section | None]] = {
    "loss": loss,
    "choices": choices,
    "accuracy": accuracy,
    **{kind: benchmark(kind) for kind in BENCHMARKS},
}

# ---------------------------------------------------------------------- results and records


def samples(run: Run) -> Section | None:
    """Texts drawn from the last checkpoint."""
    if run.recipe.artifacts.samples is None or not run.samples:
        return None
    return Section("Samples", fill("samples", samples=run.samples, wanted=run.recipe.artifacts.samples))


def digests(run: Run) -> Section | None:
    """Every digest beside the published one."""
    if not run.digests:
        return None
    tensors = any(digest.file for digest in run.digests)
    return Section("Digests", fill("digests", digests=run.digests, flags=run.flags("run"), tensors=tensors))


def cost(run: Run) -> Section | None:
    """Tokens, FLOPs, speed, energy and dollars of training, where its receipts say."""
    costs = [receipt["cost"] for receipt in run.receipts if "cost" in receipt]
    if not costs:
        return None
    found = together(costs, run.unit)

    def said(key: str, form: str, factor: float = 1.0) -> str:
        return "not measurable here" if found[key] is None else form.format(found[key] * factor)

    rows = [
        (f"{run.unit}s trained on", said(f"{run.unit}s", "{:,.0f}")),
        ("FLOPs", said("flops", "{:.3e}")),
        ("hours", said("seconds", "{:,.4f}", 1 / 3600)),
        (f"{run.unit}s per second", said("per_second", "{:,.0f}")),
        ("MFU", said("mfu", "{:.1%}") if found["mfu"] is not None else "no peak is known of this device"),
        ("joules of the GPUs", said("gpu_joules", "{:,.0f}")),
        ("joules of the CPUs", said("cpu_joules", "{:,.0f}")),
        ("GFLOPS per watt", said("gflops_per_watt", "{:,.3f}")),
        ("dollars", said("dollars", "{:,.2f}") if found["dollars"] is not None else "no price given (--price)"),
    ]
    return Section("Cost", fill("cost", rows=rows, saturnv=SATURNV))


def receipts(run: Run) -> Section | None:
    """What each stage ran on, and how long it took."""
    if not run.receipts:
        return None
    machines = []
    for receipt in run.receipts:
        if receipt["machine"] not in machines:
            machines.append(receipt["machine"])
    return Section("Receipts", fill("receipts", receipts=run.receipts, machines=machines, unit=run.unit))


def recipe(run: Run) -> Section | None:
    """The recipe with every value that it leaves out."""
    text = yaml.safe_dump(as_written(run.recipe), sort_keys=False, allow_unicode=True, width=100)
    return Section("Recipe", fill("recipe", path=run.path, name=run.recipe.name, text=text))


def sections(run: Run) -> Iterator[Section]:
    """In the order of the page; the scores in the order of the recipe."""
    scores = [SCORES[score.kind] for score in run.recipe.artifacts.scores]
    for make in (curves, *scores, samples, spikes, digests, cost, receipts, recipe):
        found = make(run)
        if found is not None:
            yield found
