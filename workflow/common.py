"""What the rules share: the environment of the stages, the recipes of this invocation, their paths, what makes a rule
run again.

Two kinds of params: those that a function of the wildcards gives are compared with the last run's and make a rule run
again; those that a function of (wildcards, input) or (wildcards, resources) gives are derived, and Snakemake does not
compare them (9.27, rules.py, _is_deriving_function). Bits and code are of the first kind; paths and execution of the
second.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from screen import plain_words
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from cuda_ops.errors import UserError, refusal
from pipeline.base.files import sha256_of
from pipeline.data import own
from pipeline.data.prompts import check_prepared
from pipeline.recipe import PinnedSource, Recipe, TextData, digest_of, load_recipe, paths, recipe_id
from pipeline.recipe.load import RECIPES, recipe_file
from pipeline.recipe.pins import Pins, load_pins, pins_path
from pipeline.recipe.training import CheckpointInit
from pipeline.records import catalogue, code_digest
from pipeline.records.contents import in_words

ROOT = Path(__file__).resolve().parent.parent
RUNNING = ("train", "evaluate", "sample", "digest", "verify", "spikes", "report")  # the stages of a run
CORES = 8  # threads of a rule that takes all, where nobody says how many there are: an executor without --cores


def prepare_environment(workflow: Any) -> None:
    """Stages run with this interpreter and these sources, from any working folder."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ.setdefault("SAMEBITS_BUILD", str(paths.BUILD))
    # Every output is marked update(); that a rule which fails at its first run has no old file to put back is no news.
    logger.addFilter(lambda record: "no backup found" not in str(record.msg))
    plain_words(workflow)


def stale_library() -> bool:
    """Whether the folder of the workflow's own build lacks the library of the sources at hand.

    Not an edge of the graph: Snakemake reruns all that is downstream of a job, and every stage is downstream of the
    library, so editing one kernel would rerun every stage. (An edge marked ancient() is worse: what is downstream of a
    job that runs is not looked at for other reasons, so the stage that the edit concerns would not run before the next
    invocation.) What a stage needs of a kernel is in its trigger; the library is only brought up to date, before the
    first job.
    """
    from cuda_ops import build

    if os.environ["SAMEBITS_BUILD"] != str(paths.BUILD):
        return False  # a folder of the user's: the stages refuse it if it is stale
    digest = paths.BUILD / build.DIGEST
    current = digest.exists() and digest.read_text(encoding="ascii").strip() == build.source_digest()
    return not (current and (paths.BUILD / build.LIBRARY).exists())


class Run:
    """A recipe and where its results lie, relative to the working folder."""

    def __init__(self, recipe: Recipe, path: Path) -> None:
        self.recipe, self.path = recipe, str(path)
        where = catalogue.folders(recipe)
        self.data, self.tokens, self.folder = str(where["data"]), str(where["tokens"]), str(where["run"])
        self.corpus, self.prepared = where["data"].name, where["tokens"].name
        self.id = recipe_id(recipe)
        self._parts: dict[str, dict[str, str]] = {}

    def parts(self, stage: str) -> dict[str, str]:
        """What of code and kernels must make a stage run again."""
        if stage not in self._parts:
            self._parts[stage] = code_digest.parts(f"pipeline.{stage}", self.recipe)
        return self._parts[stage]

    def trigger(self, stage: str, kernels: bool) -> str:
        """The parts in words, so that `snakemake -n` shows which one moved: of Python's, or of the kernels'."""
        parts = self.parts(stage).items()
        return " ".join(f"{name}:{digest[:12]}" for name, digest in parts if name.startswith("ops.") == kernels)

    def files(self, stage: str) -> list[str]:
        """What a stage writes."""
        items = catalogue.of_stage(self.recipe, stage)
        return [str(path) for path in catalogue.files(items, catalogue.folders(self.recipe))]

    def made(self) -> list[str]:
        """Every file of the run: what is missing in the middle is no less missing where what follows is there."""
        return [path for stage in RUNNING for path in self.files(stage)]

    def questions(self, step: int) -> list[str]:
        """What an evaluation reads beside the prepared corpus: questions with a source of their own, where it asks
        some.
        """
        asks = any(self.recipe.asks(score.kind, step) for score in self.recipe.artifacts.asked)
        return self.files("prepare_questions") if asks else []

    def digested(self) -> list[str]:
        """Every file whose digest is published."""
        found = catalogue.files(catalogue.digested(self.recipe), catalogue.folders(self.recipe))
        return [str(path) for path in found]

    def file(self, name: str) -> str:
        """A file of the run."""
        return f"{self.folder}/{name}"

    @cached_property
    def summary(self) -> str:
        """Counts and digests of what training reads: small, so compared by content."""
        return f"{self.tokens}/{paths.SUMMARY}"

    def before(self, step: int) -> int:
        """The checkpoint before a step; 0 if there is none."""
        return max((other for other in self.recipe.checkpoints if other < step), default=0)

    def previous(self, step: int) -> str:
        """The path of the checkpoint before a step, or none."""
        return self.file(paths.checkpoint_name(self.before(step))) if self.before(step) else "none"

    def previous_sha256(self, step: int) -> list[str]:
        """Its digest file: small, so compared by content; an equal checkpoint retrains nothing."""
        return [self.file(paths.sidecar_name(self.before(step)))] if self.before(step) else []

    @property
    def init(self) -> CheckpointInit | None:
        """The checkpoint of another recipe that this one begins from."""
        init = self.recipe.bits.init
        return init if isinstance(init, CheckpointInit) else None

    def outcome(self) -> str:
        """The end of a run in one line: the last scores, and where the page is; nothing if it was not asked for."""
        scores, page = Path(self.file(paths.eval_name(self.recipe.bits.steps))), Path(self.file(paths.REPORT))
        if not (scores.exists() and page.exists()):
            return ""
        return f"{self.recipe.name}: {in_words(json.loads(scores.read_text(encoding='utf-8')))}; page {page}"

    def expected(self) -> list[str]:
        """The published digests, if there are any."""
        path = ROOT / "config" / "expected" / f"{self.recipe.name}.json"
        return [os.path.relpath(path)] if path.exists() else []


class Runs(dict[str, Run]):
    """The recipes of this invocation by name, and those whose checkpoints they begin from. asked: the first kind."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        given = config["recipe"]
        names = given if isinstance(given, list) else [given] if Path(given).exists() else given.split(",")
        if config["data"] and len(names) > 1:
            raise UserError(f"data={config['data']}: with one recipe, not with {len(names)}: {', '.join(names)}")
        self.asked = [self._add(name.strip(), config["data"]) for name in names]
        for name in self.asked:
            self._begin(name, [])

    def _add(self, given: str, data: str) -> str:
        path = recipe_file(given)
        recipe = load_recipe(path)
        for named in (RECIPES / f"{recipe.name}.yaml", path.with_name(f"{recipe.name}.yaml")):
            if named.is_file() and recipe_id(load_recipe(named)) != recipe_id(recipe):
                raise UserError(
                    f"{path}: its name is {recipe.name}, which {os.path.relpath(named)} has for other bits; "
                    "give it a name of its own"
                )
        if data:
            recipe = own.derive(recipe, Path(data))
            path = own.write(recipe)
        if recipe.name in self and self[recipe.name].id != recipe_id(recipe):
            raise UserError(f"recipe={given}: two recipes of other bits are called {recipe.name}")
        self.setdefault(recipe.name, Run(recipe, path))
        return recipe.name

    def _begin(self, name: str, through: list[str]) -> None:
        """Add the recipes that one begins from, however far back."""
        init = self[name].init
        if init is None:
            return
        if name in through:
            raise UserError(f"bits.init: {' begins from '.join([*through, name])}: a circle")
        if init.recipe not in self:
            self._add(init.recipe, "")
        steps = self[init.recipe].recipe.checkpoints
        if init.step not in steps:
            raise UserError(
                f"{self[name].path}: bits.init.step {init.step}: {init.recipe} has checkpoints at "
                + ", ".join(map(str, steps))
            )
        self._begin(init.recipe, [*through, name])

    def start(self, name: str, step: int, suffix: str = "") -> list[str]:
        """What the first segment begins from, if from anything: weights that were fetched, or the checkpoint of another
        recipe, whose files have a digest beside them (suffix).
        """
        init, fetched = self[name].init, paths.weights_file(self[name].recipe)
        if self[name].before(step):
            return []
        if fetched is not None:
            return [str(fetched)]
        if init is None:
            return []
        return [self[init.recipe].file(paths.checkpoint_name(init.step) + suffix)]

    def of_corpus(self, corpus: str, prepared: str = "") -> Run:
        """One of the recipes that share a corpus, prepared in a way; what is compared of it is the same for each."""
        return next(run for run in self.values() if run.corpus == corpus and prepared in ("", run.prepared))

    def of_questions(self, corpus: str, prepared: str, stem: str) -> Run:
        """One of the recipes that ask the same questions of the same tokens."""
        found = (run for run in self.values() if (run.corpus, run.prepared) == (corpus, prepared))
        return next(run for run in found if stem in {score.stem for score in run.recipe.artifacts.asked})

    def of_weights(self, folder: str) -> Run:
        """One of the recipes that begin from the weights of a folder."""
        found = ((run, paths.weights_file(run.recipe)) for run in self.values())
        return next(run for run, path in found if path is not None and path.parent.name == folder)

    def questions(self) -> str:
        """The names of questions with a source of their own, as a wildcard's constraint."""
        return one_of(score.stem for run in self.values() for score in run.recipe.artifacts.asked)

    def corpora(self, kind: str) -> str:
        """The folders of corpora of a kind, as a wildcard's constraint."""
        return one_of(run.corpus for run in self.values() if run.recipe.bits.data.kind == kind)

    def by_source(self, pinned: bool) -> str:
        """The folders of corpora of text whose documents come from the files of a pin file, or do not, as a wildcard's
        constraint.
        """
        return one_of(
            run.corpus
            for run in self.values()
            if isinstance(run.recipe.bits.data, TextData) and (pins_of(run.recipe) is not None) == pinned
        )

    def by_shards(self, kind: str) -> list[tuple[str, int, str]]:
        """Of the prepared corpora of a kind: the corpus's folder, the number of training shards, and the folders that
        have so many, each folder as a wildcard's constraint.
        """
        found: dict[tuple[str, int], set[str]] = {}
        for run in self.values():
            if run.recipe.bits.data.kind == kind:
                found.setdefault((run.corpus, len(paths.train_shards(run.recipe))), set()).add(run.prepared)
        return [(one_of([corpus]), count, one_of(folders)) for (corpus, count), folders in sorted(found.items())]


@cache
def pins_of(recipe: Recipe) -> Pins | None:
    """The pin file of a recipe's corpus, if it has one; of a selection that nobody has listed without files."""
    source = getattr(recipe.bits.data, "source", None)
    return load_pins(pins_path(source.pins), listed=False) if isinstance(source, PinnedSource) else None


def pinned_of(runs: Runs) -> dict[str, list[str]]:
    """The files of each pinned corpus, by the corpus, none where only the hub knows them; what is wrong with a pin file is one message."""
    try:
        found = {run.corpus: pins for run in runs.values() if (pins := pins_of(run.recipe)) is not None}
    except UserError as error:
        raise WorkflowError(str(error)) from None
    return {corpus: [file.name for file in pins.files] for corpus, pins in found.items()}


def one_of(names: Iterable[str]) -> str:
    """A pattern of exactly these names; of none, one that nothing matches."""
    return "|".join(sorted({re.escape(name) for name in names})) or "(?!)"


def runs_of(config: dict[str, Any]) -> Runs:
    """The recipes that --config names; what is wrong with them is one message."""
    try:
        runs = Runs(config)
        for run in runs.values():
            check_prepared(run.recipe, Path(run.tokens))
        return runs
    except UserError as error:
        raise WorkflowError(str(error)) from None
    except OSError as error:  # a name that is too long, a folder that nobody may read
        raise WorkflowError(refusal(error) or str(error)) from None


def prepared_bits(run: Run) -> str:
    """What shapes a prepared corpus: its source, and all of its preparation but the order of samples."""
    data = run.recipe.bits.data
    shape = [digest_of(part) for name in ("source", "tokenizer", "split") if (part := getattr(data, name, None))]
    return " ".join([*shape, str(len(paths.train_shards(run.recipe)))])


def evaluated_bits(run: Run, step: int) -> str:
    """What shapes an evaluation beside the checkpoint: the scores, and which of those that are not taken everywhere."""
    asked = [score for score in run.recipe.artifacts.scores if hasattr(score, "at")]
    scores = " ".join(
        digest_of(score.model_copy(update={"at": None}) if score in asked else score)
        for score in run.recipe.artifacts.scores
    )
    here = " ".join(score.kind for score in asked if run.recipe.asks(score.kind, step))
    return f"{run.id} {scores} {'last' if step == run.recipe.bits.steps else here}"


def pins(name: str) -> tuple[str, str]:
    """A file of pinned downloads, and its digest."""
    path = ROOT / "config" / "data" / f"{name}.yaml"
    return os.path.relpath(path), sha256_of(path)
