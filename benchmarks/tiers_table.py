"""What whole runs in each tier came to: the results of benchmarks/tiers.py, and the table that docs/digits.md has of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

from cuda_ops.errors import UserError
from pipeline.base.files import write_bytes, write_json

ROOT = Path(__file__).resolve().parents[1]
KEPT, PAGE = ROOT / "docs" / "evidence" / "tiers.json", ROOT / "docs" / "digits.md"
BEGIN = "<!-- tiers: written by python -m benchmarks.tiers --table FILE --write from docs/evidence/tiers.json -->\n"
END = "<!-- end of tiers -->"
TIERS = ("fp32", "int8x3", "int8x1")


@dataclass(frozen=True)
class Result:
    """A run at its end. Losses are nats per token of the whole validation split; None: the recipe has no such thing."""

    recipe: str  # that it is derived from
    numerics: str
    seed: int
    steps: int
    whole: bool  # False: a trial, of the first steps only
    loss: float
    floor: float | None  # entropy of the split
    right: int | None  # of so many questions
    questions: int | None
    outliers: float | None  # share of blocks with an outlier, in digits
    checkpoint: str  # digest of its tensors
    published: str  # recipe whose published digests these are, or ""
    device: str  # name of the GPU, or cpu
    seconds: float  # of training, since it was last gone on with, and evaluation; beside other runs

    @property
    def key(self) -> tuple[str, int, str, int]:
        return self.recipe, self.seed, self.numerics, self.steps

    def bits(self) -> tuple[object, ...]:
        """What no machine may change; the share of outliers is of the blocks that were looked at, and promises nothing."""
        return self.loss, self.floor, self.right, self.questions, self.checkpoint


def read(path: Path) -> list[Result]:
    """The results of a file that `write_results` wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = [Result(**item) for item in content]
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; python -m benchmarks.tiers --out FOLDER writes FOLDER/tiers.json"
        ) from None
    except (ValueError, TypeError) as error:
        names = ", ".join(field.name for field in fields(Result))
        raise UserError(f"{path}: expected a list of results, each with {names}: {error}") from None
    return found


def write_results(path: Path, results: Iterable[Result]) -> None:
    write_json(path, [asdict(result) for result in sorted(results, key=lambda result: result.key)])


def merged(results: Iterable[Result]) -> list[Result]:
    """One result a run, the first given; a run that has other bits elsewhere is an error that names it."""
    found: dict[tuple[str, int, str, int], Result] = {}
    for result in results:
        known = found.setdefault(result.key, result)
        if known.bits() != result.bits():
            raise UserError(
                f"{result.recipe} {result.numerics} seed {result.seed}: loss {known.loss}, checkpoint {known.checkpoint[:12]} on "
                f"{known.device}, {result.loss}, {result.checkpoint[:12]} on {result.device}; one of them is wrong. Remove its "
                "folder and run it again from the same sources"
            )
    return sorted(found.values(), key=lambda result: result.key)


def spread(values: Sequence[float], form: str) -> str:
    """Mean, and least and most of several."""
    mean, least, most = (f"{value:{form}}" for value in (fmean(values), min(values), max(values)))
    return mean if least == most else f"{mean} ({least} to {most})"


def table(results: Sequence[Result]) -> list[str]:
    """A row per recipe and tier: over its seeds mean, least and most; the difference is from fp32 of the same seed."""
    lines = [
        "| recipe | tier | seeds | validation loss | from fp32 of the same seed | floor | questions right | blocks with an outlier |",
        "|---|---|---|---|---|---|---|---|",
    ]
    exact = {(result.recipe, result.steps, result.seed): result.loss for result in results if result.numerics == "fp32"}
    for recipe, steps in dict.fromkeys((result.recipe, result.steps) for result in results):
        for tier in TIERS:
            rows = [each for each in results if (each.recipe, each.steps, each.numerics) == (recipe, steps, tier)]
            if rows:
                pairs = [(each.loss, exact[known]) for each in rows if (known := (recipe, steps, each.seed)) in exact]
                lines.append("| " + " | ".join([_name(rows[0]), tier, str(len(rows)), *_cells(rows, pairs)]) + " |")
    return lines


def _name(result: Result) -> str:
    return result.recipe if result.whole else f"{result.recipe}, {result.steps} steps"


def _cells(rows: Sequence[Result], pairs: Sequence[tuple[float, float]]) -> list[str]:
    """pairs: losses in this tier and in fp32, of the seeds that both have."""
    differs = [100 * (loss / exact - 1) for loss, exact in pairs]
    floors = sorted({f"{each.floor:.4f}" for each in rows if each.floor is not None})
    right = [each.right for each in rows if each.right is not None]
    asked = {each.questions for each in rows if each.questions is not None}
    outliers = [100 * each.outliers for each in rows if each.outliers is not None]
    least = f"{min(right)} to {max(right)}" if len(set(right)) > 1 else "".join(map(str, right[:1]))
    return [
        spread([each.loss for each in rows], ".4f"),
        spread(differs, "+z.2f") + " %" if differs and rows[0].numerics != "fp32" else "",
        ", ".join(floors),
        f"{least} of {asked.pop()}" if right else "",
        spread(outliers, ".3f") + " %" if outliers else "",
    ]


def block(results: Sequence[Result]) -> str:
    """What stands on the page between the marks."""
    devices = [result.device for result in results]
    counts = ", ".join(f"{devices.count(device)} on {device}" for device in sorted(set(devices)))
    same = sum(bool(result.published) for result in results)
    words = f"Runs: {counts or 'none'}. The bits of {same} are published, and these have the published digests."
    return "\n".join([*table(results), "", words, ""])


def write_page(results: Sequence[Result]) -> None:
    """Write the page's table, and keep the results that it is made from; trials do not belong there."""
    trials = [f"{result.recipe} {result.numerics} seed {result.seed}" for result in results if not result.whole]
    if trials:
        raise UserError(f"--write: {', '.join(trials)}: a trial of some steps; the page has whole runs only")
    write_results(KEPT, results)
    old = PAGE.read_text(encoding="utf-8")
    new = old[: old.index(BEGIN) + len(BEGIN)] + block(results) + old[old.index(END) :]
    write_bytes(PAGE, new.encode())
