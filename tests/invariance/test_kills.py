"""pytest tests/invariance/test_kills.py

A run that is ended loses no bit: kill -9 of the process group at random instants, with resume on other ranks; damaged
rolling checkpoints; polite stops; a rank that dies. What a run has done chooses the instant, no clock: a machine ten
times slower is killed in the same places.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.recipe import load_recipe
from pipeline.recipe.paths import METRICS
from pipeline.records.metrics import read
from tests.conftest import ROOT, run
from tests.invariance.running import command, result

STEPS = 240
# Where a run is killed, and its ranks: while torch loads, before the first step, after some more steps, within a write.
INSTANTS = [
    ("torch", 1), ("first step", 1), ("steps", 1), ("write", 2), ("torch", 2), ("write", 1), ("steps", 2), ("write", 1),
]  # fmt: skip


class Watched:
    """A run in a process group of its own, to be killed once it has come to an instant."""

    def __init__(self, setting: dict[str, Path], out: Path, instant: str, ranks: int, rng: random.Random) -> None:
        flags = ["--ranks", str(ranks), "--rolling-steps", "4", "--micro-batch", str(rng.choice([1, 2, 3]))]
        self.out, self.instant, self.log = out, instant, out.with_suffix(".log")
        self.goal = self.step() + rng.randint(1, 12)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command(setting, out, *flags, steps=STEPS)], env=os.environ | {"PYTHONPATH": str(ROOT)},
                start_new_session=True, stdout=log, stderr=log,
            )  # fmt: skip

    def step(self) -> int:
        """The last step in metrics.jsonl."""
        return max((row["step"] for row in read(self.out / METRICS) if "step" in row), default=0)

    def unfinished(self) -> list[Path]:
        return [*self.out.glob("state/*/.*.tmp")]

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def has_come(self) -> bool:
        if self.instant == "torch":
            return "libtorch_cpu" in Path(f"/proc/{self.process.pid}/maps").read_text()
        if self.instant == "first step":
            return (self.out / METRICS).exists()
        if self.step() < self.goal or self.instant == "steps":
            return self.step() >= self.goal
        if self.unfinished():  # held there, or the write would be over before the kill
            self.send(signal.SIGSTOP)
            if self.unfinished():
                return True
            self.send(signal.SIGCONT)
        return False

    def is_killed(self) -> bool:
        """kill -9 at the instant; False if the run came to its end before, as it should."""
        while self.process.poll() is None:
            if self.has_come():
                self.send(signal.SIGKILL)
                self.process.wait()
                return True
            time.sleep(0.0005 if self.instant == "write" else 0.01)
        assert self.process.returncode == 0, self.log.read_text()[-2000:]
        return False


def test_random_kills_lose_no_bit(tiny: dict[str, Path], tmp_path: Path) -> None:
    """kill -9 of the whole process group at random instants, resumed on 1 or 2 ranks."""
    long = tmp_path / "long.yaml"
    text = tiny["recipe"].read_text()
    for old, new in (
        ("steps: 6", f"steps: {STEPS}"),
        ("checkpoints: [3]", "checkpoints: []"),
        ("sequences: 32", "sequences: 8"),
    ):
        assert old in text
        text = text.replace(old, new)
    long.write_text(text)
    assert load_recipe(long).bits.steps == STEPS
    setting, out, rng = tiny | {"recipe": long}, tmp_path / "killed", random.Random(7)
    run(*command(setting, tmp_path / "whole", steps=STEPS))
    expected, within = result(tmp_path / "whole", STEPS), 0
    for instant, ranks in INSTANTS:
        while not (watched := Watched(setting, out, instant, ranks, rng)).is_killed():
            assert result(out, STEPS) == expected  # the machine was faster than we looked: another run
            shutil.rmtree(out)
        within += bool(watched.unfinished())
    assert within, "no kill fell into a write"
    run(*command(setting, out, steps=STEPS))
    assert result(out, STEPS) == expected
    assert not list((out / "state").glob("*/*")), "rolling checkpoints are removed when the segment is done"


def test_a_damaged_rolling_checkpoint_is_named_and_the_one_before_is_used(
    tiny: dict[str, Path], tmp_path: Path, reference: str
) -> None:
    state = stop_after(tiny, tmp_path, 4)
    newest = state / "step_000004.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    output = run(*command(tiny, tmp_path))
    assert "step_000004.safetensors: damaged" in output
    assert "resuming from step 3" in output
    assert result(tmp_path) == reference
    stop_after(tiny, tmp_path, 4)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert "resuming from step 3" in run(*command(tiny, tmp_path))
    assert result(tmp_path) == reference


def stop_after(tiny: dict[str, Path], out: Path, step: int) -> Path:
    """The rolling state of a run that was killed after a step."""
    code = (
        "import os, sys\nfrom pipeline import train\nfrom pipeline.training.segment import Segment\nsave = Segment.save_rolling\n"
        f"def killed(self):\n  save(self)\n  if self.trainer.step == {step}: os.kill(os.getpid(), 9)\n"
        "Segment.save_rolling = killed\n"
        f"sys.argv[1:] = {[*command(tiny, out, '--rolling-steps', '1')[2:]]!r}\ntrain.main()\n"
    )
    run("-c", code, code=-9)
    (folder,) = (out / "state").iterdir()
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_polite_stop_saves_and_goes_on(
    tiny: dict[str, Path], tmp_path: Path, reference: str, number: signal.Signals
) -> None:
    waiting = (
        "import sys\nfrom pipeline import train\nfrom pipeline.training.trainer import Trainer\nstep = Trainer.train_step\n"
        "def waiting(self, signal=0):\n  print('step', flush=True); sys.stdin.readline()\n  return step(self, signal)\n"
        "Trainer.train_step = waiting\n"
        f"sys.argv[1:] = {command(tiny, tmp_path)[2:]!r}\nsys.exit(train.main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", waiting], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate("", timeout=400)  # stdin ends, and the steps go on
    assert process.returncode == 128 + number, errors
    assert "the same command goes on from there" in errors
    assert "resuming from step" in run(*command(tiny, tmp_path))
    assert result(tmp_path) == reference


def test_readers_that_end_cost_no_step(tiny: dict[str, Path], tmp_path: Path, reference: str) -> None:
    """A closed terminal, a killed tee: without a log of its own too, and from the first word of the launcher and the ranks."""
    process = subprocess.Popen(
        [sys.executable, *command(tiny, tmp_path, "--ranks", "2")], env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    for stream in (process.stdout, process.stderr):
        assert stream
        stream.close()
    assert process.wait(400) == 0
    assert result(tmp_path) == reference


def test_a_dead_rank_stops_the_others(tiny: dict[str, Path], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *command(tiny, tmp_path, "--ranks", "2", "--rolling-steps", "1")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "SAMEBITS_ISA": "baseline"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 400
    workers: list[str] = []
    while len(workers) < 2 and time.monotonic() < deadline and process.poll() is None:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        workers = found.stdout.split()
        time.sleep(0.05)
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=400)  # it ends by itself; how soon is the machine's speed
    assert process.returncode != 0
    assert "error: rank 1 ended by signal SIGKILL; the others were stopped" in errors
    assert "Traceback" not in errors.split("error: rank 1")[1]
