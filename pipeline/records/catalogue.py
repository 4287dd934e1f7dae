"""The one catalogue of a run's artefacts: which stage writes what, where, with which digest. A function of the recipe.

Rules, digests, SHA256SUMS, comparison, report, bless and the GPU proof read it. An artefact's key, <stage>/<name>, is
its name in digests.json and config/expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.recipe import Recipe, TextData, paths

Folder = Literal["data", "tokens", "run"]
# In the order they run.
STAGES = (
    "download", "prepare_text", "prepare_images", "prepare_questions", "train", "evaluate", "sample", "digest", "verify",
    "spikes", "report",
)  # fmt: skip
PREPARING = STAGES[: STAGES.index("train")]  # those whose results training reads
Digest = Literal[
    "bytes", "tensors", "chain", "none"
]  # of the file; over the tensors by name; bytes, once each link follows


@dataclass(frozen=True)
class Artefact:
    stage: str  # the rule, and the command of pipeline/, that writes it
    name: str  # of the file
    folder: Folder
    digest: Digest = "none"  # "none": it holds times, or follows from what has a digest
    step: int = 0  # of the step it belongs to, if any

    @property
    def key(self) -> str:
        return f"{self.stage}/{self.name}"

    @property
    def published(self) -> bool:
        """Whether digests.json and config/expected hold its digest."""
        return self.digest != "none"


def folders(recipe: Recipe, **given: Path | None) -> dict[Folder, Path]:
    """The folders of a recipe; those given take the place of its own."""
    own: dict[Folder, Path] = {
        "data": paths.data_dir(recipe),
        "tokens": paths.tokens_dir(recipe),
        "run": paths.run_dir(recipe),
    }
    return {name: given.get(name) or place for name, place in own.items()}


def _prepared(recipe: Recipe) -> list[Artefact]:
    """The corpus, and what training reads."""
    if isinstance(recipe.bits.data, TextData):
        stage, raw = "prepare_text", [Artefact("download", paths.QUESTIONS, "data")]
        if recipe.bits.data.source.kind != "pinned":  # its files are pinned one by one, and stay as they came
            raw = [Artefact("download", paths.DOCUMENTS, "data", "bytes"), *raw]
        derived = [paths.CHOICES, paths.TRAIN_STARTS, paths.VALIDATION_STARTS]
        bytes_of = [*paths.train_shards(recipe), paths.VALIDATION, paths.TOKENIZER]
    else:
        stage, raw = "prepare_images", [Artefact("download", paths.IMAGES, "data", "bytes")]
        derived, bytes_of = [], [*paths.train_shards(recipe), paths.VALIDATION]
    return [
        *raw,
        Artefact("download", paths.SOURCE, "data"),
        *(Artefact(stage, name, "tokens", "bytes") for name in bytes_of),
        *(Artefact(stage, name, "tokens") for name in [*derived, paths.SUMMARY]),
    ]


def _asked(recipe: Recipe) -> list[Artefact]:
    """Questions with a source of their own; what is published is how they were answered."""
    names = [name(score.stem) for score in recipe.artifacts.asked for name in (paths.choices_name, paths.record_name)]
    return [Artefact("prepare_questions", name, "tokens") for name in names]


def _trained(step: int) -> list[Artefact]:
    return [
        Artefact("train", paths.checkpoint_name(step), "run", "tensors", step),
        Artefact("train", paths.sidecar_name(step), "run", "none", step),
        Artefact("train", paths.chain_name(step), "run", "chain", step),
    ]


def _evaluated(step: int) -> Artefact:
    return Artefact("evaluate", paths.eval_name(step), "run", "bytes", step)


SAMPLED = Artefact("sample", paths.SAMPLES, "run", "bytes")


def catalogue(recipe: Recipe) -> list[Artefact]:
    """Every artefact of a run, in the order they come to be."""
    found = _prepared(recipe) + _asked(recipe)
    for step in recipe.checkpoints:
        found += _trained(step)
    found += map(_evaluated, recipe.checkpoints)
    if recipe.artifacts.samples is not None:
        found.append(SAMPLED)
    found += [Artefact("digest", name, "run") for name in (paths.DIGESTS, paths.SUMS, paths.PROVENANCE)]
    found.append(Artefact("verify", paths.VERIFICATION, "run"))
    found.append(Artefact("spikes", paths.SPIKES, "run"))
    found.append(Artefact("report", paths.REPORT, "run"))
    return found


def digested(recipe: Recipe) -> list[Artefact]:
    """Those whose digests are published."""
    return [item for item in catalogue(recipe) if item.published]


def of_stage(recipe: Recipe, stage: str, step: int | None = None) -> list[Artefact]:
    """What a stage writes, at one step if one is named."""
    return [item for item in catalogue(recipe) if item.stage == stage and step in (None, item.step)]


def chains(recipe: Recipe) -> list[Artefact]:
    """The pieces of the run's chain, in order."""
    return [item for item in catalogue(recipe) if item.digest == "chain"]


def by_name(name: str) -> Artefact | None:
    """What a file of a run folder is by its name alone, if one with a published digest, whatever recipe it is of."""
    step = paths.step_of(name) or 0
    known = [*_trained(step), _evaluated(step), SAMPLED]
    return next((item for item in known if item.published and item.name == name), None)


def receipts(recipe: Recipe) -> list[str]:
    """The files of the folder of receipts that belong to the run."""
    stages = [(stage, step) for stage in ("train", "evaluate") for step in recipe.checkpoints]
    return [*(paths.receipt_name(stage, step) for stage, step in stages), paths.receipt_name("sample")]


def files(items: list[Artefact], where: Mapping[Folder, Path]) -> list[Path]:
    """Their paths."""
    return [where[item.folder] / item.name for item in items]


def run_files(recipe: Recipe) -> list[str]:
    """The files of a run folder that have published digests: what SHA256SUMS lists, with digests.json."""
    return [item.name for item in digested(recipe) if item.folder == "run"]
