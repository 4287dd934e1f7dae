"""Whole runs of recipes in every tier of numerics and with several seeds, through the stages of the pipeline.

    python -m benchmarks.tiers --recipe fables --recipe shakespeare_char --seeds 3 --jobs 6 --device cuda --out results/tiers
    python -m benchmarks.tiers --table results/tiers/tiers.json --write

Per recipe, tier and seed a recipe of its own in FOLDER/recipes, the given one with bits.seed and bits.numerics changed;
its checkpoint, chain, evaluation, receipts and log in FOLDER/<its name>; results in FOLDER/tiers.json after each run.
The same command goes on where it was stopped. A run that is a published recipe must have its digests. --steps N: a
trial of the first N steps, whose chain is held to the published one. --table: results of files together, and with those
of docs/evidence/tiers.json that --write keeps, printed and written to docs/digits.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tiers_table import KEPT, TIERS, Result, merged, read, table, write_page, write_results
from cuda_ops.bounds import MOST_THREADS, whole
from cuda_ops.errors import UserError, exit_on_user_error, say
from pipeline.base.files import sha256_of, write_json
from pipeline.evidence.gpu_parts import compare_chains, first_difference
from pipeline.evidence.gpu_session import Failed
from pipeline.recipe import Recipe, TextData, as_written, load_recipe, parse_recipe, paths, recipe_id
from pipeline.recipe.load import recipe_file
from pipeline.records.digests import EXPECTED, checkpoint_digest, published

ROOT = Path(__file__).resolve().parents[1]


def derived(base: Recipe, numerics: str, seed: int, trial: int | None = None) -> Recipe:
    """A recipe with another tier and seed and a name of its own, whose last step alone has a checkpoint.

    trial: so many steps are trained and scored as the last is; bits: and so the steps themselves stay the recipe's.
    """
    content = as_written(base)
    content["name"] = f"{base.name}_{numerics}_seed{seed}" + (f"_to{trial}" if trial else "")
    content["description"] = f"{base.description}; seed {seed}, {numerics}"
    content["bits"] |= {"seed": seed, "numerics": numerics}
    scores = content["artifacts"]["scores"]
    content["artifacts"] = {"checkpoints": [trial] if trial else [], "scores": scores}
    asked = {score.kind for score in base.artifacts.scores if hasattr(score, "at")}
    for score in scores:
        score.pop("at", None)
        if trial and score["kind"] in asked:
            score["at"] = [trial]
    return parse_recipe(content, content["name"])


def published_as(recipe: Recipe) -> str:
    """The published recipe of the same bits, or ""."""
    names = sorted(path.stem for path in (ROOT / "config" / "recipes").glob("*.yaml"))
    return next((name for name in names if published(name).get("recipe/bits") == recipe_id(recipe)), "")


@dataclass(frozen=True)
class Run:
    """A recipe, what it is derived from, and the folders it lies in."""

    base: Recipe
    recipe: Recipe
    steps: int
    out: Path  # of all runs
    tokens: Path

    @property
    def key(self) -> tuple[str, int, str, int]:
        return self.base.name, self.recipe.bits.seed, self.recipe.bits.numerics, self.steps

    @property
    def folder(self) -> Path:
        return self.out / self.recipe.name

    @property
    def file(self) -> Path:
        return self.out / "recipes" / f"{self.recipe.name}.yaml"

    @property
    def checkpoint(self) -> Path:
        return self.folder / paths.checkpoint_name(self.steps)

    @property
    def chain(self) -> Path:
        return self.folder / paths.chain_name(self.steps)

    @property
    def evaluation(self) -> Path:
        return self.folder / paths.eval_name(self.steps)

    def write_recipe(self) -> None:
        """JSON, which is YAML; refused where the folder is another recipe's."""
        if self.file.exists() and recipe_id(load_recipe(self.file)) != recipe_id(self.recipe):
            raise UserError(f"{self.file}: of another {self.base.name}; give another --out, or remove this one")
        write_json(self.file, as_written(self.recipe))


class Commands:
    """Runs stages on a device until a time; a training that is stopped saves, and goes on when it is run again."""

    def __init__(self, device: str, seconds: float | None) -> None:
        self.device = device
        self.until = math.inf if seconds is None else time.monotonic() + seconds
        self.running: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()  # held from the look at the time until a process is among the running

    def __call__(self, log: Path, *words: str | Path) -> None:
        """`python <words>` at the root of the project; what it prints goes to the log."""
        process, left = self._start(log, [sys.executable, *map(str, words)])
        try:
            code = process.wait(None if left == math.inf else left)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            raise UserError(f"time was over in {words[1]}") from None
        finally:
            self.running.discard(process)
        if code:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise UserError(f"{words[1]}: exit code {code}: {' / '.join(lines)[-400:]} ({log})")

    def _start(self, log: Path, command: list[str]) -> tuple[subprocess.Popen[bytes], float]:
        """A process that stop() reaches, and the seconds that are left."""
        with self._starting:
            left = self.until - time.monotonic()
            if left <= 0:
                raise UserError("time was over before it began")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                file.write(f"\n$ python {' '.join(command[1:])}\n".encode())
                file.flush()
                process = subprocess.Popen(
                    command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file
                )
            self.running.add(process)
        return process, left

    def stop(self) -> None:
        """Ask what runs to end, and begin nothing more."""
        with self._starting:
            self.until = -math.inf
        for process in list(self.running):
            process.terminate()


def prepare(commands: Commands, base: Recipe, file: Path, out: Path) -> Path:
    """Corpus and tokens of a recipe and all derived from it, made once; those of `make reproduction` serve."""
    if not isinstance(base.bits.data, TextData):
        raise UserError(f"--recipe {base.name}: tiers other than fp32 are for model.kind gpt, which reads text")
    made = ROOT / paths.tokens_dir(base)
    if (made / paths.SUMMARY).exists():
        return made
    data, tokens = (out / place.relative_to(paths.RESULTS) for place in (paths.data_dir(base), paths.tokens_dir(base)))
    if not (tokens / paths.SUMMARY).exists():
        say(f"{base.name}: preparing its text")
        log = out / f"{base.name}_prepare.log"
        commands(log, "-m", "pipeline.download", "--recipe", file, "--out", data)
        commands(log, "-m", "pipeline.prepare_text", "--recipe", file, "--data", data, "--out", tokens)
    return tokens


def finish(run: Run, commands: Commands) -> Result:
    """Train and evaluate, where that is not done, and read what came out."""
    log, common = run.folder / "log.txt", ("--recipe", run.file, "--tokens", run.tokens)
    place = ("--device", commands.device, "--threads", "1")
    if not (run.checkpoint.exists() and run.chain.exists()):
        commands(
            log, "-m", "pipeline.train", *common, "--steps-to", str(run.steps), "--out", run.checkpoint, "--chain", run.chain,
            "--state", run.folder / "state", "--micro-batch", "16", *place,
        )  # fmt: skip
    if not run.evaluation.exists():
        commands(
            log, "-m", "pipeline.evaluate", *common, "--checkpoint", run.checkpoint, "--out", run.evaluation,
            "--batch-size", "16", *place,
        )  # fmt: skip
    return result_of(run)


def result_of(run: Run) -> Result:
    """What a run's files say, after its digests were held to the published ones, where it is published."""
    name, digest = published_as(run.recipe), checkpoint_digest(run.checkpoint)
    whole_run = run.steps == run.recipe.bits.steps
    if name:
        check(run, name, digest, whole_run)
    evaluation, summary = _json(run.evaluation), _json(run.tokens / paths.SUMMARY)
    trained, scored = (
        _json(run.folder / paths.RECEIPTS / paths.receipt_name(stage, run.steps)) for stage in ("train", "evaluate")
    )
    split, choices = summary["validation"], evaluation.get("choices")
    nats = math.fsum(count * math.log(int(options)) for options, count in split["choices"].items())
    return Result(
        recipe=run.base.name,
        numerics=run.recipe.bits.numerics,
        seed=run.recipe.bits.seed,
        steps=run.steps,
        whole=whole_run,
        loss=evaluation["validation"]["nats_per_token"],
        floor=nats / split["tokens"] if nats else None,
        right=round(choices["acc"] * choices["questions"]) if choices else None,
        questions=choices["questions"] if choices else None,
        outliers=scored["digits"]["outliers"] if "digits" in scored else None,
        checkpoint=digest,
        published=name,
        device=trained["cost"]["device"],
        seconds=round(trained["seconds"] + scored["seconds"], 1),
    )


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def check(run: Run, name: str, digest: str, whole_run: bool) -> None:
    """Refuse a run that differs from the published one of its bits: a trial by its steps, a whole one by its digests."""
    want, reference = published(name), EXPECTED / "chains" / f"{name}.tsv"
    where = f"{run.recipe.name}: is {name}, whose published digests it has not"
    if not whole_run:
        try:
            if reference.exists():
                compare_chains(run.chain, reference)
        except Failed as reason:
            raise UserError(f"{where}: {reason}") from None
    elif digest != want[f"train/{run.checkpoint.name}"]:
        raise UserError(f"{where}: {run.checkpoint.name}: {first_difference(name, run.chain)}")
    elif sha256_of(run.evaluation) != want[f"evaluate/{run.evaluation.name}"]:
        raise UserError(f"{where}: {run.evaluation.name} differs, though the checkpoint is the published one")


def runs_of(args: argparse.Namespace, commands: Commands) -> Iterator[Run]:
    """Those that the flags ask for, the first seed of all first."""
    bases = [(load_recipe(path), path.resolve()) for path in map(recipe_file, dict.fromkeys(args.recipe))]
    tokens = {base.name: prepare(commands, base, file, args.out) for base, file in bases}
    for offset in range(args.seeds):
        for base, _ in bases:
            for numerics in args.tiers:
                recipe = derived(base, numerics, base.bits.seed + offset, args.steps)
                yield Run(base, recipe, args.steps or base.bits.steps, args.out, tokens[base.name])


def run_all(args: argparse.Namespace) -> list[Result]:
    """Run what is not done yet, `--jobs` at once; a run that fails stops no other, and is named at the end."""
    commands = Commands(args.device, args.limit)
    commands(args.out / "compile.log", "-m", "pipeline.compile", "--out", paths.BUILD)
    runs, results, failed = list(runs_of(args, commands)), [], 0
    for run in runs:
        run.write_recipe()
    file, own = args.out / "tiers.json", {run.key for run in runs}
    others = [result for result in read(file) if result.key not in own] if file.exists() else []
    with ThreadPoolExecutor(args.jobs) as pool:
        began = {pool.submit(finish, run, commands): run for run in runs}
        try:
            for number, future in enumerate(as_completed(began), 1):
                run = began[future]
                try:
                    result = future.result()
                except UserError as reason:
                    failed += 1
                    say(f"[{number}/{len(runs)}] {run.recipe.name}: {reason}")
                    continue
                results.append(result)
                write_results(file, [*others, *results])
                held = f", as published of {result.published}" if result.published else ""
                say(
                    f"[{number}/{len(runs)}] {run.recipe.name}: {result.loss:.4f} nats/token, {result.seconds:.0f} s{held}"
                )
        except BaseException:
            commands.stop()
            raise
    if failed:
        raise UserError(f"{failed} of {len(runs)} runs are not done, for the reasons above; the same command goes on")
    return merged(results)


def tiers(text: str) -> list[str]:
    found = text.split(",")
    unknown = [name for name in found if name not in TIERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: allowed are {', '.join(TIERS)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole runs of recipes in every tier and with several seeds.")
    parser.add_argument("--recipe", action="append", help="name or file; again for more of them")
    parser.add_argument("--seeds", type=whole(1, 100), default=3, help="the recipe's own, and those that follow it")
    parser.add_argument("--tiers", type=tiers, default=list(TIERS), help=f"of {','.join(TIERS)} (default: all)")
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--jobs", type=whole(1, MOST_THREADS), default=1, help="runs at once, a thread each")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="never changes a bit")
    parser.add_argument("--steps", type=whole(1), help="a trial of so many steps")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="stop after so long, so that it can go on later")
    parser.add_argument(
        "--table", type=Path, nargs="+", metavar="FILE", help="print the results of files; nothing runs"
    )
    parser.add_argument("--write", action="store_true", help="with --table: add them to docs/evidence, and to the page")
    args = parser.parse_args()
    if bool(args.table) == bool(args.recipe and args.out):
        raise UserError("give either --recipe and --out, or --table")
    if args.table:
        kept = read(KEPT) if args.write and KEPT.exists() else []
        results = merged([*kept, *(result for path in args.table for result in read(path))])
        if args.write:
            write_page(results)
    else:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        args.out = args.out.resolve()
        results = run_all(args)
    print("\n".join(table(results)))


if __name__ == "__main__":
    exit_on_user_error(main)
