"""Faults: kills, stops, damaged files and a full disk, at random; the bits must not notice and no finished artefact may
be lost.

    python -m tests.evidence.faults            writes docs/evidence/faults.json, some ten minutes
    200 faults in 10 runs: 10 runs with the bits of the undisturbed one

A run of tests/recipes/tiny.yaml with a rolling checkpoint every step, so that many kills fall into a write, is
disturbed until it is done: kill -9 of all ranks or of one, SIGTERM, then often a flipped bit or a cut in a file of
the rolling state; each time it goes on with another number of ranks, micro-batch and threads. Ranks are forked from a
process that has imported torch, which saves seconds a start.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline import train
from pipeline.base import chain
from pipeline.base.checkpoint import load, tensor_digest
from tests.evidence.common import EVIDENCE, ROOT, TINY, prepared, save
from tests.ports import free_port

DAMAGE = ("flip", "cut")


class Run:
    """One run of `steps` steps in a folder of its own, in as many attempts as it takes."""

    def __init__(self, folder: Path, tokens: Path, steps: int) -> None:
        self.folder, self.tokens, self.steps = folder, tokens, steps
        folder.mkdir(parents=True, exist_ok=True)
        self.recipe = folder / "recipe.yaml"
        text = TINY.read_text().replace("steps: 6", f"steps: {steps}").replace("checkpoints: [3]", "checkpoints: []")
        self.recipe.write_text(text)
        self.out, self.state = folder / f"step_{steps:06d}.safetensors", folder / "state"
        self.log = folder.with_name(f"{folder.name}.log")

    def flags(self, *more: object) -> list[str]:
        chain_path = self.folder / f"chain_{self.steps:06d}.tsv"
        places = ["--out", self.out, "--chain", chain_path, "--state", self.state]
        return [
            str(x) for x in ("--recipe", self.recipe, "--tokens", self.tokens, "--steps-to", self.steps, *places, *more)
        ]

    def start(self, ranks: int, *more: object) -> list[int]:
        """Fork the ranks; returns their process ids."""
        port = free_port()
        pids = []
        for rank in range(ranks):
            pid = os.fork()
            if pid == 0:
                self._become(rank, ranks, port, self.flags("--ranks", ranks, *more))
            pids.append(pid)
        return pids

    def _become(self, rank: int, ranks: int, port: int, flags: list[str]) -> None:
        """In the child: the stage's own main, and no return."""
        code = 70
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1), os.dup2(output, 2)
            if ranks > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
                               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
            sys.argv[1:] = flags
            try:
                code = train.main()
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                code = 2
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            code = 1
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def alone(self, *more: object) -> tuple[int, str]:
        """To the end on one rank: exit code and what it said."""
        self.log.unlink(missing_ok=True)
        (code,) = wait(self.start(1, *more), 400).values()
        return code, self.log.read_text()

    def result(self) -> str:
        """Last link and every tensor's digest, after following the chain."""
        lines = chain.read(self.folder / f"chain_{self.steps:06d}.tsv")
        assert chain.check(lines, chain.START, self.folder) == lines[-1].link
        tensors = load(self.out).tensors
        return json.dumps([lines[-1].link, {name: tensor_digest(tensors[name]) for name in sorted(tensors)}])

    def leftovers(self) -> list[str]:
        """Files that a finished run should not leave."""
        return [
            str(p.relative_to(self.folder))
            for p in self.folder.rglob("*")
            if p.name.endswith(".tmp") or p.parent.parent == self.state
        ]


def wait(pids: list[int], seconds: float) -> dict[int, int]:
    """Exit codes (negative: signals) of those that ended within the time."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(pids) and time.monotonic() < deadline:
        for pid in pids:
            if pid not in codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return codes


def end(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def damage(rng: random.Random, state: Path) -> str:
    """Flip a bit of, or cut, one file of the rolling state."""
    files = sorted(path for path in state.rglob("*") if path.is_file() and path.stat().st_size)
    if not files:
        return ""
    path, how = rng.choice(files), rng.choice(DAMAGE)
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    if how == "flip":
        content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content[:at] if how == "cut" else content)
    kind = (
        "temporary file"
        if path.name.endswith(".tmp")
        else {".sha256": "digest", ".tsv": "chain"}.get(path.suffix, "checkpoint")
    )
    return f"{how} of a {kind}"


def disturb(run: Run, rng: random.Random, counts: Counter[str], faults: int) -> int:
    """Run to the end with up to `faults` faults; returns how many there were."""
    done = 0
    while True:
        ranks = rng.choice((1, 1, 2, 4))
        flags = (
            "--micro-batch",
            rng.choice((1, 3, 8)),
            "--threads",
            ranks * rng.choice((1, 2)),
            "--rolling-steps",
            rng.choice((1, 1, 5)),
        )
        pids = run.start(ranks, *flags)
        codes = wait(pids, rng.uniform(0.3, 1.5) if done < faults else 300)
        if len(codes) == len(pids):
            assert set(codes.values()) == {0}, (codes, run.log.read_text()[-1500:])
            return done
        assert not codes or any(codes.values()) or ranks > 1, codes
        kind = rng.choice(("kill -9 of all ranks",) * 4 + ("SIGTERM",) + ("kill -9 of one rank",) * (ranks > 1))
        done += 1
        counts[kind] += 1
        counts["kills within a write"] += bool(kind != "SIGTERM" and [*run.folder.rglob("*.tmp")])
        left = [pid for pid in pids if pid not in codes]
        if kind == "kill -9 of one rank":
            victim = rng.choice(left)
            os.kill(victim, signal.SIGKILL)
            codes |= wait(left, 400)
            assert len(codes) == len(pids), "a rank waits for a dead one"
            assert all(code for pid, code in codes.items() if pid != victim) or run.out.exists()
        elif kind == "SIGTERM":
            end(left, signal.SIGTERM)
            codes |= wait(left, 400)
            assert len(codes) == len(pids), "a rank does not stop"
            polite = {128 + signal.SIGTERM, 0}  # a rank that had not begun to listen just ends, and the others miss it
            assert set(codes.values()) <= polite or -signal.SIGTERM in codes.values(), codes
        else:
            end(left, signal.SIGKILL)
            wait(left, 400)
        if rng.random() < 0.4 and not run.out.exists():
            what = damage(rng, run.state)
            if what:
                counts[what] += 1


@contextmanager
def killed_after(step: int) -> Iterator[None]:
    """Runs that begin here are killed as soon as the rolling checkpoint of a step is whole."""
    from pipeline.training.segment import Segment

    save = Segment.save_rolling

    def killed(segment: Segment) -> None:
        save(segment)
        if segment.trainer.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Segment.save_rolling = killed  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Segment.save_rolling = save  # type: ignore[method-assign]


def every_damage(run: Run, expected: str, places: tuple[float, ...]) -> dict[str, int]:
    """Each file of a killed run, cut and flipped at these places (1 is the end), one at a time and then all at once."""
    with killed_after(4):
        assert set(wait(run.start(1, "--rolling-steps", 1), 400).values()) == {-signal.SIGKILL}
    kept = run.folder.with_name("kept")
    shutil.copytree(run.state, kept)
    counts = Counter[str]()
    names = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    for name in [*names, None]:
        for where in places:
            for how in DAMAGE:
                run.out.unlink(missing_ok=True)
                shutil.rmtree(run.state)
                shutil.copytree(kept, run.state)
                for victim in [name] if name else names:
                    content = bytearray((kept / victim).read_bytes())
                    at = min(int(where * len(content)), len(content) - 1)
                    content[at] ^= 4
                    (run.state / victim).write_bytes(content[:at] if how == "cut" else content)
                codes = wait(run.start(1), 400)
                assert (set(codes.values()), run.result()) == ({0}, expected), (
                    name,
                    where,
                    how,
                    run.log.read_text()[-800:],
                )
                counts["resumed with the right bits"] += 1
    return dict(counts)


@contextmanager
def small_disk(kib: int) -> Iterator[Path | None]:
    """A tmpfs of that size, where mounting is permitted; else None."""
    folder = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    mounted = bool(shutil.which("mount")) and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)
        folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Training takes for granted that there is room, as where another program fills the disk after it has looked."""
    check, train.check_disk = train.check_disk, lambda *_: None
    try:
        yield
    finally:
        train.check_disk = check


def stage(*command: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return done.returncode, done.stdout + done.stderr


def full_disk(tokens: Path, expected: str, steps: int) -> dict[str, str]:
    """What a stage says when the disk fills, and that it goes on when there is room. Raises if a bit or a file is lost."""
    found = {}
    size = load_size(tokens, steps)
    for what, kib in (("rolling checkpoint", size * 3 // 2), ("last checkpoint", size * 2 + size // 2)):
        with small_disk(kib) as disk:
            if disk is None:
                return {"skipped": "mounting a tmpfs is not permitted here"}
            run = Run(disk / "run", tokens, steps)
            run.log = disk.with_name(f"{disk.name}.log")  # elsewhere: this disk will be full
            earlier = run.folder / "finished"
            earlier.write_text("an earlier artefact")
            code, words = run.alone("--rolling-steps", 1)
            assert (code, "error: no room for the checkpoints" in words) == (2, True), (what, code, words[-500:])
            with unchecked():
                code, words = run.alone("--rolling-steps", 1)
            assert (code, "no space left" in words, run.out.exists()) == (2, True, False), (what, code, words[-500:])
            subprocess.run(["mount", "-o", f"remount,size={size * 20}k", str(disk)], check=True)
            code, again = run.alone()
            assert (code, run.result(), earlier.read_text()) == (0, expected, "an earlier artefact"), (
                what,
                again[-500:],
            )
            found[what] = words.strip().splitlines()[-1].replace(str(disk), "DISK")
    with small_disk(64) as disk:
        assert disk is not None
        command = (
            "pipeline.prepare_text",
            "--recipe",
            TINY,
            "--data",
            tokens.parent / "data",
            "--out",
            disk / "tokens",
        )
        code, words = stage(*command)
        assert (code, "no space left" in words) == (2, True), (code, words[-500:])
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert stage(*command)[0] == 0
        for path in tokens.iterdir():
            assert (disk / "tokens" / path.name).read_bytes() == path.read_bytes(), path
        found["token shards"] = words.strip().splitlines()[-1].replace(str(disk), "DISK")
    return found


def load_size(tokens: Path, steps: int) -> int:
    """KiB of a checkpoint: parameters and two moments, and its frame."""
    from pipeline.evidence.forensics import flat_of
    from pipeline.recipe import load_recipe

    return flat_of(load_recipe(TINY)).used * 12 // 1024 + 16


def experiment(faults: int, steps: int, seed: int, folder: Path, tokens: Path) -> dict[str, Any]:
    """Disturbed runs until there were enough faults; all must have the bits of the undisturbed one."""
    rng, counts = random.Random(seed), Counter[str]()
    whole = Run(folder / "whole", tokens, steps)
    assert set(wait(whole.start(1), 300).values()) == {0}
    expected, total, runs, leftovers = whole.result(), 0, 0, []
    while total < faults:
        run = Run(folder / f"run{runs}", tokens, steps)
        total += disturb(run, rng, counts, faults - total)
        assert run.result() == expected, f"run {runs} has other bits"
        leftovers += run.leftovers()
        runs += 1
        print(f"{total} faults, {runs} runs", file=sys.stderr, flush=True)
    warnings = sum(p.read_text().count("warning: ") for p in folder.glob("run*.log"))
    return {"faults": total, "runs": runs, "steps_of_a_run": steps, "runs_with_the_undisturbed_bits": runs, "counts": dict(sorted(counts.items())),
            "warnings_that_name_a_damaged_file": warnings, "files_left_behind": leftovers}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Faults at random.")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100, help="of a run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--places", type=float, nargs="+", default=(0.0, 0.3, 0.7, 1.0), help="where each file is damaged"
    )
    parser.add_argument("--out", type=Path, default=EVIDENCE, help="folder of the result")
    parser.add_argument("--tokens", type=Path, help="of the tiny corpus, its documents in ../data (default: made)")
    args = parser.parse_args()
    tokens = args.tokens or prepared()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        result = experiment(args.faults, args.steps, args.seed, Path(name), tokens)
        print(json.dumps(result, indent=2))
        short = Run(Path(name) / "short", tokens, 6)
        assert set(wait(short.start(1), 300).values()) == {0}
        result["damage"] = every_damage(Run(Path(name) / "damaged", tokens, 6), short.result(), args.places)
        result["full_disk"] = full_disk(tokens, short.result(), 6)
    save("faults", result | {"seconds": round(time.monotonic() - began)}, args.out)


if __name__ == "__main__":
    main()
