"""One self-contained page for a run: curves, samples, accuracy, digests, receipts.

    python -m pipeline.report --recipe config/recipes/fables.yaml
    results/runs/fables/report.html: 412 KiB

The page is for reading: it holds times and hosts, so it has no digest. It loads nothing from anywhere.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from cuda_ops.errors import exit_on_user_error
from pipeline.base import chain
from pipeline.base.files import write_bytes
from pipeline.pages.charts import BLUE, GREEN, GREY, ORANGE, subplots, svg
from pipeline.recipe import Recipe, load_recipe, recipe_id
from pipeline.recipe.paths import run_dir, tokens_dir
from pipeline.records.contents import Evaluation, Tokens
from pipeline.records.digests import EXPECTED, published
from pipeline.records.receipt import read_receipts

TEMPLATES = Path(__file__).resolve().parent / "pages" / "templates"


def curves(lines: list[chain.Line], evals: list[Evaluation], floor: float, spikes: list[dict[str, Any]]) -> str:
    """Loss, learning rate and gradient norm as inline SVG; spikes are marked."""
    figure, (loss, rate, norm) = subplots(3, (8, 6.4), sharex=True, height_ratios=[3, 1, 1])
    steps = [line.step for line in lines]
    loss.plot(steps, [line.loss for line in lines], color=BLUE, linewidth=0.9, label="training, each step")
    loss.plot(
        [e["step"] for e in evals], [e["validation"]["nats_per_token"] for e in evals], "o-", color=ORANGE,
        markersize=4, linewidth=1, label="validation, whole split",
    )  # fmt: skip
    if floor:
        loss.axhline(floor, color=GREEN, linestyle="--", linewidth=1, label=f"entropy floor {floor:.4f}")
    low = min([line.loss for line in lines] + ([floor] if floor else []))
    high = max(line.loss for line in lines)
    if low > 0 and high / low > 8:
        loss.set_yscale("log")
        ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 8, 12) if low * 0.9 <= t <= high * 1.1]
        loss.set_yticks(ticks, [f"{t:g}" for t in ticks])
        loss.minorticks_off()
    loss.set_ylabel("loss (nats per token)")
    loss.legend(frameon=False)
    rate.plot(steps, [line.lr for line in lines], color=GREY, linewidth=1)
    rate.set_ylabel("learning rate")
    norm.plot(steps, [line.norm for line in lines], color=GREY, linewidth=0.8)
    norm.set_ylabel("gradient norm")
    norm.set_yscale("log")
    norm.set_xlabel("step")
    for axes, name in ((loss, "loss"), (norm, "norm")):
        marked = [spike for spike in spikes if name in spike["z"]]
        values = [spike[name] for spike in marked]
        axes.plot([spike["step"] for spike in marked], values, "v", color=ORANGE, markersize=4, zorder=3)
    return svg(figure)


def summary(recipe: Recipe, run: Path, tokens: Path) -> dict[str, Any]:
    """Everything the page shows."""
    lines = [line for step in recipe.checkpoints for line in chain.read(run / f"chain_{step:06d}.tsv")]
    evals: list[Evaluation] = [
        json.loads((run / f"eval_{step:06d}.json").read_text(encoding="utf-8")) for step in recipe.checkpoints
    ]
    about: Tokens = json.loads((tokens / "tokens.json").read_text(encoding="utf-8"))
    nats = math.fsum(n * math.log(int(k)) for k, n in about["validation"]["choices"].items())
    floor = nats / about["validation"]["tokens"]
    found: dict[str, str] = json.loads((run / "digests.json").read_text(encoding="utf-8"))
    marked = run / "spikes.json"
    spikes: dict[str, Any] = (
        json.loads(marked.read_text(encoding="utf-8")) if marked.exists() else {"spikes": [], "z": None}
    )
    expected = published(recipe.name, EXPECTED)
    digests = [
        (key, digest, "equal" if expected.get(key) == digest else "DIFFERS" if key in expected else "unpublished")
        for key, digest in found.items()
    ]
    equal = sum(verdict == "equal" for _, _, verdict in digests)
    return {
        "recipe": recipe,
        "recipe_id": recipe_id(recipe),
        "about": about,
        "lines": lines,
        "final": evals[-1],
        "evals": evals,
        "floor": floor,
        "chart": curves(lines, evals, floor, spikes["spikes"]),
        "spikes": spikes,
        "samples": json.loads((run / "samples.json").read_text(encoding="utf-8")),
        "digests": digests,
        "published": bool(expected),
        "equal": equal,
        "receipts": read_receipts(run / "receipts"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="One self-contained page for a run.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="folder of the run (default: from the recipe)")
    parser.add_argument("--tokens", type=Path, help="folder of the shards (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="page to write (default: report.html of the run)")
    args = parser.parse_args()
    import jinja2

    recipe = load_recipe(args.recipe)
    run = args.run or run_dir(recipe)
    out = args.out or run / "report.html"
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("report.html.j2").render(summary(recipe, run, args.tokens or tokens_dir(recipe)))
    write_bytes(out, page.encode())
    print(f"{out}: {len(page.encode()) // 1024} KiB")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
