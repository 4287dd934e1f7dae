"""Everything a page shows of one run, read from its folder."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.data.contents import ImageTokens, Tokens
from pipeline.recipe import Recipe, recipe_id
from pipeline.recipe.paths import DIGESTS, RECEIPTS, SAMPLES, SPIKES, SUMMARY, SUMS, run_dir, tokens_dir
from pipeline.records import contents
from pipeline.records.catalogue import chains, files, folders, of_stage
from pipeline.records.digests import EXPECTED, published
from pipeline.records.receipt import read_receipts


@dataclass(frozen=True)
class Digest:
    """verdict: equal, DIFFERS or unpublished. file: the SHA-256 of the file where the digest is over something else."""

    key: str
    digest: str
    verdict: str
    file: str


@dataclass(frozen=True)
class Run:
    recipe: Recipe
    path: Path  # of the recipe
    folder: Path
    tokens: Path
    about: Tokens | ImageTokens  # what preparation counted
    lines: list[chain.Line]
    evals: list[contents.Evaluation]
    spikes: contents.Spikes | None
    samples: list[contents.Sample]
    digests: list[Digest]
    receipts: list[contents.Receipt]

    @property
    def recipe_id(self) -> str:
        return recipe_id(self.recipe)

    @property
    def unit(self) -> str:
        """What the loss is a mean over: token, image."""
        return self.recipe.bits.model.unit

    @property
    def published(self) -> bool:
        return any(digest.verdict != "unpublished" for digest in self.digests)

    @property
    def unequal(self) -> list[Digest]:
        return [digest for digest in self.digests if digest.verdict != "equal"]

    @property
    def floor(self) -> float:
        """Entropy of the validation split in nats per unit where its generator's choices are known, else 0."""
        if "vocab_size" not in self.about:
            return 0.0
        split = self.about["validation"]
        return math.fsum(n * math.log(int(k)) for k, n in split["choices"].items()) / split["tokens"]

    def loss(self, evaluation: contents.Evaluation) -> float:
        """Validation loss of an evaluation, in nats per unit."""
        found = evaluation["validation"]
        return found["nats_per_image"] if "images" in found else found["nats_per_token"]

    def shares(self) -> dict[str, tuple[float, str]]:
        """The scores of the last evaluation that are shares of what was right, with a note."""
        found: dict[str, tuple[float, str]] = {}
        if not self.evals:
            return found
        last = self.evals[-1]
        if "choices" in last:
            norm = last["choices"]["acc_norm"]
            found["multiple choice"] = (last["choices"]["acc"], f"acc; acc_norm {100 * norm:.1f}%")
        if "accuracy" in last:
            found["accuracy"] = (last["accuracy"]["share"], f"of {last['accuracy']['images']:,} images")
        return found

    def flags(self, *others: str) -> str:
        """The flags with which a command of pipeline/ finds this run; others: of run, tokens, where they are not the
        recipe's.
        """
        words = ["--recipe", str(self.path)]
        given = {"run": (self.folder, run_dir), "tokens": (self.tokens, tokens_dir)}
        for name in others:
            here, own = given[name]
            words += [f"--{name}", str(here)] if here != own(self.recipe) else []
        return shlex.join(words)


def read_json(path: Path) -> Any:
    """A JSON file of the run; UserError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run snakemake --cores all reproduction --config recipe=…") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not JSON ({error}); move it away and run snakemake --cores all reproduction --config recipe=…"
        ) from None


def digests_of(recipe: Recipe, folder: Path) -> list[Digest]:
    """The run's digests beside the published ones, and beside the files' own."""
    found: contents.Digests = read_json(folder / DIGESTS)
    expected = published(recipe.name, EXPECTED)
    sums: dict[str, str] = {}
    if (folder / SUMS).exists():
        for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            sums[name] = digest
    rows = []
    for key, digest in found.items():
        verdict = "unpublished" if key not in expected else "equal" if expected[key] == digest else "DIFFERS"
        file = sums.get(key.split("/", 1)[1], "")
        rows.append(Digest(key, digest, verdict, file if file != digest else ""))
    return rows


def load_run(recipe: Recipe, path: Path, folder: Path, tokens: Path) -> Run:
    """A finished run: UserError names what it lacks. Spikes are optional, samples are where the recipe asks for them."""
    where = folders(recipe, run=folder)
    pieces = files(chains(recipe), where)
    absent = next((each for each in pieces if not each.exists()), None)
    if absent:
        raise UserError(f"{absent}: missing; run snakemake --cores all reproduction --config recipe=…")
    spikes = folder / SPIKES
    return Run(
        recipe, path, folder, tokens,
        about=read_json(tokens / SUMMARY),
        lines=[line for each in pieces for line in chain.read(each)],
        evals=[read_json(path) for path in files(of_stage(recipe, "evaluate"), where)],
        spikes=read_json(spikes) if spikes.exists() else None,
        samples=read_json(folder / SAMPLES) if recipe.artifacts.samples is not None else [],
        digests=digests_of(recipe, folder),
        receipts=read_receipts(folder / RECEIPTS, recipe),
    )  # fmt: skip
