"""What the parts of the GPU proof share: commands within a time, a log of all they print, and what was seen so far."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.recipe import TextData, load_recipe, paths
from pipeline.recipe.pins import pins_path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / paths.BUILD


class Failed(Exception):
    """A part that did not hold, with the reason. output: of the command that failed, whole."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


class Expired(Exception):
    """A part whose time was over: what it saw until then holds, the rest is open."""


class Skipped(Exception):
    """A part that cannot be tried here, with the reason."""


class NotMet(Exception):
    """Speed targets that were missed."""


class Session:
    """One run of the proof on a device. `until` is when the present part's time is over; `seen` is what it found so far."""

    def __init__(self, device: str, brief: bool, work: Path, log: Path | None = None) -> None:
        self.device, self.brief, self.work = device, brief, work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.until = 0.0
        self.gpu = ""  # its name
        self.seen: list[str] = []
        self.facts: dict[str, Any] = {}
        self.environment: dict[str, str] = {}  # beyond this process's own
        self.log = log or self.work / "log.txt"  # of several commands, one after another

    @property
    def left(self) -> float:
        """Seconds of the present part, at least one."""
        return max(1.0, self.until - time.monotonic())

    def plain(self, text: str) -> str:
        """A text without the folders of this machine: work and the repository by their names, Python as a word."""
        for place, name in ((str(self.work), "work"), (sys.executable, "python"), (str(ROOT), ".")):
            text = text.replace(place, name)
        return text

    def note(self, *texts: str) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.writelines(map(self.plain, texts))

    def run(
        self,
        *command: str | Path,
        prefix: tuple[str, ...] = (),
        env: dict[str, str | None] | None = None,
        at_most: float | None = None,
    ) -> str:
        """Run `python <command>` within the part's time, or `at_most` seconds of it; returns what it printed.

        Its output goes to the log. env: variables of this command, None takes one away. Failed has the last lines and
        the output, Expired the command that was stopped.
        """
        variables = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        variables |= {"SAMEBITS_BUILD": str(BUILD)} | self.environment
        for name, value in (env or {}).items():
            variables.pop(name, None)
            if value is not None:
                variables[name] = value
        words = [*prefix, sys.executable, *map(str, command)]
        self.note(f"\n$ {' '.join(words)}\n")
        seconds = self.left if at_most is None else min(self.left, at_most)
        with subprocess.Popen(
            words,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired as error:
                self.note(*(part.decode(errors="replace") for part in (error.stdout, error.stderr) if part))
                raise Expired(f"time was over after {seconds:.0f} s in: {' '.join(map(str, command[:3]))} …") from error
            finally:  # an interrupt too leaves nobody on the GPU
                if process.poll() is None:
                    kill_tree(process.pid)
        self.note(out, err)
        if process.returncode:
            lines = (out + err).strip().splitlines()[-3:]
            raise Failed(f"exit code {process.returncode}: " + " / ".join(lines)[-400:], out + err)
        return out

    # ------------------------------------------------------------------ runs

    def recipe(self, name: str) -> Path:
        return ROOT / "config" / "recipes" / f"{name}.yaml"

    def tokens(self, name: str) -> Path:
        """Corpus and tokens of a recipe, made once; those of `make reproduction` serve, since every step proves them."""
        made = ROOT / paths.tokens_dir(load_recipe(self.recipe(name)))
        if (made / paths.SUMMARY).exists():
            return made
        data, tokens = self.work / name / "data", self.work / name / "tokens"
        if not (tokens / paths.SUMMARY).exists():
            try:
                self.run("-m", "pipeline.download", "--recipe", self.recipe(name), "--out", data)
                text = load_recipe(self.recipe(name)).bits.data
                if isinstance(text, TextData) and text.tokenizer.kind == "gpt2":
                    self.run("-m", "pipeline.download", "--pins", pins_path("gpt2_bpe"), "--out", ROOT / paths.GPT2_BPE)
            except Failed as error:
                if name == "fables":
                    raise
                raise Skipped("its corpus is not here: name a folder of copies in SAMEBITS_MIRROR") from error
            self.run("-m", "pipeline.prepare_text", "--recipe", self.recipe(name), "--data", data, "--out", tokens)
        return tokens

    def chain(
        self, name: str, steps: int, device: str, *flags: str, folder: str = "run", previous: str = "none"
    ) -> Path:
        """Train up to a step and return the chain; the checkpoint lies beside it."""
        out = self.work / name / folder
        made = out / paths.chain_name(steps)
        shutil.rmtree(out / "state", ignore_errors=True)
        self.run(
            "-m", "pipeline.train", "--recipe", self.recipe(name), "--tokens", self.tokens(name), "--previous", previous,
            "--steps-to", str(steps), "--out", out / paths.checkpoint_name(steps), "--chain", made,
            "--state", out / "state", "--device", device, *flags,
        )  # fmt: skip
        return made


def kill_tree(pid: int) -> None:
    """Kill a process and all that come from it, also those that began sessions of their own, as ranks do."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    tree = [pid]
    for parent in tree:  # grows as it is walked
        tree += parents.get(parent, [])
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for each in tree:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
