"""Mark the steps whose loss or gradient norm is an outlier, and say what they read and where in the network the norm
grew.

    python -m pipeline.spikes --recipe config/recipes/fables.yaml
    step 469: norm 1.1820, z 9.3 above the 64 steps before
    results/runs/fables/spikes.json: 7 spikes

Training goes on unchanged: marks are a function of the chain (pipeline/training/outliers.py), and the chain's bytes
are what they were. For the largest --replays of them the step and the one before are computed again from the nearest
checkpoint, and the norm of every parameter's gradient is compared; --most-flops leaves out those that would take
longer. spikes.json is deterministic, but not among the published digests: which steps are replayed is a choice.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuda_ops.bounds import real, whole
from cuda_ops.errors import exit_on_user_error
from pipeline.base import chain
from pipeline.base.files import write_json
from pipeline.evidence.rerun import Rerun, checkpoints_of, lines_of
from pipeline.machine.room import check_run
from pipeline.recipe import Recipe, load_recipe
from pipeline.recipe.paths import SPIKES, run_dir, tokens_dir
from pipeline.records.contents import Spike, Spikes, SpikeSample
from pipeline.training.outliers import WINDOW, Outliers

if TYPE_CHECKING:
    from pipeline.data.samples import Samples

SHOWN_TOKENS = 32  # of each sample; the whole window is step, sample and offset away


def marks(lines: list[chain.Line], limit: float) -> list[Spike]:
    """The outliers of a chain, ascending by step; a step may be one in its loss, its norm, or both."""
    series = {"loss": Outliers(), "norm": Outliers()}
    found: list[Spike] = []
    for line in lines:
        scores = {}
        for name, window in series.items():
            z, outlier = window.take(getattr(line, name), limit)
            if outlier and z is not None:
                scores[name] = z
        if scores:
            found.append({"step": line.step, "loss": line.loss, "norm": line.norm, "z": scores, "samples": []})
    return found


def decoder(recipe: Recipe, folder: Path) -> Callable[[list[int]], str] | None:
    """What makes text of the training split's token ids; None if it is no text."""
    if recipe.bits.data.kind != "text":
        return None
    from pipeline.data.tokenizers import load_tokenizer

    return load_tokenizer(folder).decode


def samples_at(
    recipe: Recipe, samples: Samples, decode: Callable[[list[int]], str] | None, step: int
) -> list[SpikeSample]:
    """Each sample of a step: its lane, its offset in the training split; of text the first ids, and its whole window
    as text."""
    each = recipe.bits.batch.sequences // recipe.bits.batch.lanes
    found: list[SpikeSample] = []
    for i in range(recipe.bits.batch.sequences):
        about = samples.about(step, i)
        sample: SpikeSample = {"lane": i // each, "offset": about["offset"]}
        if "label" in about:
            sample["label"] = about["label"]
        if "tokens" in about:
            sample["tokens"] = about["tokens"][:SHOWN_TOKENS] if decode else about["tokens"]
            if decode:
                sample["text"] = decode(about["tokens"])
        found.append(sample)
    return found


def gradient_norms(again: Rerun) -> tuple[dict[str, float], list[float], list[float]]:
    """Of the next step: the norm of each parameter's gradient, of each lane's gradient, and the loss of each sample."""
    squares: dict[str, float] = {}
    lanes: dict[int, float] = {}
    losses: list[float] = []
    units = again.trainer.recipe.bits.model.units  # losses of a sample

    def observe(name: str, tensor: Any) -> None:
        if "gradient/" in name:
            total = math.fsum(
                (tensor.cpu().double() ** 2).sum(-1).view(-1).tolist()
            )  # for reading: not on the numeric path
            if name.startswith("gradient/"):
                squares[name.removeprefix("gradient/")] = total
            else:
                lane = int(name.split("/")[0].removeprefix("lane."))
                lanes[lane] = lanes.get(lane, 0.0) + total
        elif name.endswith("/losses"):
            losses.extend(tensor.tolist())

    again.advance(observe)
    rows = [losses[i : i + units] for i in range(0, len(losses), units)]
    norms = {name: math.sqrt(square) for name, square in squares.items()}
    return norms, [math.sqrt(lanes[k]) for k in sorted(lanes)], [math.fsum(row) / units for row in rows]


def work(recipe: Recipe, run: Path, step: int) -> float:
    """Floating-point operations, about, to compute a step and the one before again: 6 per parameter and unit, from the
    nearest checkpoint."""
    bits = recipe.bits
    start = max((number for number in checkpoints_of(run, recipe) if number < step - 1), default=bits.start)
    return 6.0 * bits.model.parameters * bits.units * (step - start)


def look(recipe: Recipe, tokens: Path, run: Path, spike: Spike, device: str, init: Path | None) -> None:
    """Compute a spike's step and the one before again; adds what grew to the spike."""
    step = spike["step"]
    again = Rerun(
        recipe, tokens, step - 1, checkpoints_of(run, recipe), known=lines_of(run, recipe), device=device, init=init
    )
    before, _, _ = gradient_norms(again)
    norms, lanes, losses = gradient_norms(again)
    if again.parted:
        spike["replay"] = f"gives another line at step {again.parted[0].step} than the chain: see pipeline.compare"
        return
    grown = sorted(norms, key=lambda name: norms[name] ** 2 - before[name] ** 2, reverse=True)
    spike["parameters"] = [{"name": name, "before": before[name], "norm": norms[name]} for name in grown]
    spike["lanes"] = lanes
    for sample, loss in zip(spike["samples"], losses, strict=True):
        sample["loss"] = loss


def main() -> int:
    parser = argparse.ArgumentParser(description="Mark the steps whose loss or gradient norm is an outlier.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="folder of the run (default: from the recipe)")
    parser.add_argument("--tokens", type=Path, help="folder of the shards (default: from the recipe)")
    parser.add_argument("--z", type=real(), default=6.0, help="the least z-score of a spike")
    parser.add_argument("--replays", type=whole(0), default=0, help="how many of the largest to compute again")
    parser.add_argument(
        "--most-flops", type=real(), help="leave out those that take more (default: however long it takes)"
    )
    parser.add_argument("--init", type=Path, help="file of the initial weights, where bits.init reads one")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of those; never changes a bit")
    parser.add_argument("--out", type=Path, help="file to write (default: spikes.json of the run)")
    args = parser.parse_args()
    check_run(args.run)
    recipe = load_recipe(args.recipe)
    run, tokens = args.run or run_dir(recipe), args.tokens or tokens_dir(recipe)
    lines = [line for _, line in sorted(lines_of(run, recipe).items())]
    found = marks(lines, args.z)
    if found:
        from pipeline.data.samples import samples_of

        samples, decode = samples_of(recipe, tokens), decoder(recipe, tokens)
        for spike in found:
            spike["samples"] = samples_at(recipe, samples, decode, spike["step"])
    largest = sorted(found, key=lambda spike: (-max(spike["z"].values()), spike["step"]))
    near = [
        spike for spike in largest if args.most_flops is None or work(recipe, run, spike["step"]) <= args.most_flops
    ]
    for spike in near[: args.replays]:
        look(recipe, tokens, run, spike, args.device, args.init)
    for spike in found:
        values = {"loss": spike["loss"], "norm": spike["norm"]}
        words = ", ".join(f"{name} {values[name]:.4f}, z {z:.1f}" for name, z in spike["z"].items())
        print(f"step {spike['step']}: {words} above the {WINDOW} steps before")
    out = args.out or run / SPIKES
    content: Spikes = {"z": args.z, "window": WINDOW, "spikes": found}
    write_json(out, content)
    print(f"{out}: {len(found)} spikes")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
