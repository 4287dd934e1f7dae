"""One side of a comparison: what was given, what is recorded there, and how to compute a step of it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.checkpoint import opened, tensors_digest
from pipeline.base.files import sha256_of
from pipeline.base.tensors import TensorFile
from pipeline.evidence.rerun import checkpoints_of
from pipeline.evidence.trace import Trace
from pipeline.recipe import Recipe, as_written, load_recipe, recipe_id
from pipeline.recipe.paths import DIGESTS, PROVENANCE, RECEIPTS, checkpoint_name, step_of
from pipeline.records.catalogue import STAGES
from pipeline.records.contents import Receipt
from pipeline.records.digests import digests_in
from pipeline.records.origin import recipe_in, tokens_of
from pipeline.records.present import present
from pipeline.records.receipt import read_receipts

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
ORDER = ("recipe", *STAGES)  # of the artefacts, as they come to be


@dataclass
class Side:
    """path: a run folder, a checkpoint, a chain, a list of digests or a trace. env: what differs in this side's
    environment. device: where its steps are computed again. init: file of the initial weights, where bits.init reads
    one."""

    name: str
    path: Path
    recipe_path: Path | None = None
    tokens: Path | None = None
    code: Path = ROOT
    build: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    init: Path | None = None
    digests: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    lines: dict[int, chain.Line] = field(default_factory=dict)
    checkpoints: dict[int, Path] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)
    recipe: Recipe | None = None
    recipe_id: str = ""
    trace: Trace | None = None
    note: str = ""  # old files beside those of the run
    damage: list[str] = field(default_factory=list)  # files that are not whole, and what is wrong with them
    cut: dict[int, Path] = field(default_factory=dict)  # checkpoints some of whose tensors are whole
    traces: dict[tuple[int, int], Trace] = field(default_factory=dict)

    def read(self) -> Side:
        path = self.path
        if not path.exists():
            raise UserError(f"{path}: no such run, checkpoint, chain, list of digests or trace")
        if path.is_dir():
            self._read_folder()
        elif path.suffix == ".tsv":
            self.lines = self._lines(path)
        elif path.suffix == ".json":
            self.digests = _json(path)
        else:
            self._read_tensors()
        if self.recipe_path:
            self.recipe = load_recipe(self.recipe_path)
        self.recipe_id = self.recipe_id or self.digests.get("recipe/bits", "") or self.made_by.get("recipe_id", "")
        return self

    def _had(self, read: Callable[[], T], otherwise: T) -> T:
        """What a file of this side holds; of a damaged one what is wrong is kept, for it refuses no comparison."""
        try:
            return read()
        except UserError as error:
            self.damage.append(str(error).split("; ")[0])
            return otherwise

    def _lines(self, path: Path) -> dict[int, chain.Line]:
        lines, damage = chain.readable(path)
        self.damage += [f"{damage}; the {len(lines)} lines before it are compared"] if damage else []
        return {line.step: line for line in lines}

    def _read_folder(self) -> None:
        self.digests = self._had(lambda: digests_in(self.path / DIGESTS), {})
        if (self.path / PROVENANCE).exists():
            self.recipe = self._had(lambda: recipe_in(self.path / PROVENANCE), None)
        here = present(self.path, recorded=self.digests)
        self.checkpoints, self.note = here.paths("tensors"), here.note()
        for path in here.paths("chain").values():
            self.lines |= self._lines(path)
        if not self.lines and not self.checkpoints and not self.digests and not self.damage:
            raise UserError(f"{self.path}: no step_*.safetensors, chain_*.tsv or digests.json in it: not a run")
        none: list[Receipt] = []
        receipts = self._had(lambda: read_receipts(self.path / RECEIPTS, self.recipe), none)
        trained = [item for item in receipts if "recipe_id" in item]
        names = ("recipe_id", "numerics", "sources", "flags", "ops", "code", "isa")
        self.made_by = {name: str(dict(trained[-1])[name]) for name in names} if trained else {}
        for item in here.current:
            file = self.path / item.name
            if item.digest == "tensors":
                self._read_checkpoint(item.step, item.key, file)
            else:
                self.files[item.key] = sha256_of(file)
        for file in self.checkpoints.values():
            self.recipe_id = _about(TensorFile(file)).get("recipe_id", "")

    def _read_checkpoint(self, step: int, key: str, path: Path) -> None:
        """The digest of its tensors; of one that is not whole, that of the file, and what of it can be read."""
        try:
            self.files[key] = _digest(path)
            return
        except UserError as error:
            words = str(error)
        self.files[key] = f"damaged, sha256 {sha256_of(path)}"
        self.checkpoints.pop(step, None)
        try:
            words = f"{path}: {opened(path, whole=False).tensors.damage or words.removeprefix(f'{path}: ')}"
            self.cut[step] = path
        except UserError:
            pass  # not even its header
        self.damage.append(words)

    def _read_tensors(self) -> None:
        def read() -> TensorFile:
            return TensorFile(self.path, whole=False)

        file = self._had(read, None) if self.path.suffix == ".safetensors" else read()
        if file is None:  # nothing but its bytes
            self.files[f"train/{self.path.name}"] = f"damaged, sha256 {sha256_of(self.path)}"
            return
        about = _about(file)
        self.recipe_id = str(about.get("recipe_id", ""))
        if "tensors" in about:
            self.trace = Trace.load(self.path)
            self.damage += [f"{self.path}: {self.trace.damage}"] if self.trace.damage else []
            return
        step = about.get("step")
        if not isinstance(step, int):
            raise UserError(f"{self.path}: its metadata has step {step!r}; expected a number, as checkpoints have")
        self.checkpoints = {step: self.path}
        self._read_checkpoint(step, _key(step), self.path)

    @property
    def folder(self) -> Path:
        """Where its checkpoints lie."""
        return self.path if self.path.is_dir() else self.path.parent

    def artefacts(self) -> dict[str, str]:
        """Digests in the order in which the artefacts come to be; what lies there counts, not what the list says."""
        return dict(sorted((self.digests | self.files).items(), key=lambda item: _rank(item[0])))

    def altered(self) -> list[str]:
        """Files that are not what this side's own digests.json says."""
        return [key for key, digest in self.files.items() if self.digests.get(key, digest) != digest]

    def same_setting(self, other: Side) -> bool:
        """Whether a step computed again would be computed alike."""
        mine, its = ((s.recipe_path, s.tokens, s.code, s.build, s.env, s.device, s.init) for s in (self, other))
        ours, theirs = (
            s.recipe and recipe_id(s.recipe) for s in (self, other)
        )  # of a statement, where no flag says one
        return mine == its and ours == theirs

    def start(self, step: int) -> str:
        """The digest of the checkpoint from which a step is computed again; "" for the initial weights."""
        before = {number: path for number, path in checkpoints_of(self.folder, self.recipe).items() if number < step}
        return _digest(before[max(before)]) if before else ""

    def replay(self, step: int, out: Path, *flags: str) -> None:
        """A step of this side again, by its own code, library, tokens and environment, in a process of its own."""
        recipe, tokens = self.recipe_path, self.tokens
        if recipe is None:
            if self.recipe is None:
                raise UserError(f"side {self.name} has no recipe: give --recipe-{self.name.lower()}")
            recipe = out.with_name("recipe.yaml")  # of its provenance
            recipe.write_text(json.dumps(as_written(self.recipe)), encoding="utf-8")
            tokens = tokens or tokens_of(self.folder / checkpoint_name(step), self.recipe)
        command = [
            sys.executable,
            "-m",
            "pipeline.replay",
            "--recipe",
            str(recipe.resolve()),
            "--step",
            str(step),
        ]
        command += ["--run", str(self.folder.resolve()), *flags, "--trace", str(out)]
        command += ["--tokens", str(tokens.resolve())] if tokens else []
        command += (
            ["--device", self.device] if self.device != "cpu" else []
        )  # code that knows no GPU need not know the flag
        command += ["--init", str(self.init.resolve())] if self.init else []
        start = max((k for k in self.checkpoints if k < step), default=0)
        print(f"side {self.name}: computing step {step} again, {step - 1 - start} steps on the way", file=sys.stderr)
        env = os.environ | {"PYTHONPATH": str(self.code)} | self.env
        if self.build:
            env["SAMEBITS_BUILD"] = str(self.build.resolve())
        elif self.code == ROOT:
            env.setdefault("SAMEBITS_BUILD", str(ROOT / "results" / "build"))
        with Waiting(f"side {self.name}: still computing step {step}"):
            done = subprocess.run(command, env=env, cwd=self.code, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(
                f"side {self.name} cannot compute step {step} again:\n{(done.stdout + done.stderr)[-1500:]}"
            )

    def traced(self, step: int, further: int) -> Trace:
        """The trace of a step and of the weights some steps further; computed once."""
        if (step, further) not in self.traces:
            with tempfile.TemporaryDirectory() as folder:
                self.replay(step, Path(folder) / "trace", "--further", str(further))
                self.traces[step, further] = Trace.load(Path(folder) / "trace")
        return self.traces[step, further]


class Waiting:
    """Says every ten seconds, on stderr, that something is still under way."""

    def __init__(self, words: str, seconds: float = 10.0) -> None:
        self.words, self.seconds, self.over = words, seconds, threading.Event()
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self._say, daemon=True)

    def _say(self) -> None:
        while not self.over.wait(self.seconds):
            print(f"{self.words}, {time.monotonic() - self.began:.0f} s", file=sys.stderr, flush=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def _rank(key: str) -> tuple[int, int, str]:
    stage, _, name = key.partition("/")
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), step_of(name) or 0, name)


def _key(step: int) -> str:
    return f"train/{checkpoint_name(step)}"


def _digest(path: Path) -> str:
    """Over the tensors of a checkpoint as it lies there: of a damaged one too."""
    return tensors_digest(opened(path).tensors)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object of names and digests")
    return content


def _about(file: TensorFile) -> dict[str, Any]:
    """The metadata of a checkpoint or trace."""
    path, about = file.path, file.about
    if about is None:
        raise UserError(f"{path}: neither a checkpoint nor a trace of this project: it has no metadata")
    if not isinstance(about, dict):
        raise UserError(f"{path}: its metadata is {about!r}; expected an object with a step")
    return about
