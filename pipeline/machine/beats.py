"""Heartbeats of the ranks of one machine, and the judge that names the one that hangs.

A beat says what a rank does and whether it waits for others there. It is written at both ends of every collective,
so a rank that is late is the one that does not wait. No clock is in it: the launcher notes when a beat changed, and
asks Linux for the rest.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from cuda_ops.errors import writing

WIDTH = 128
TICKS = os.sysconf("SC_CLK_TCK")


class Beat:
    """Written by a rank; without a path a beat that nobody sees."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else -1
        self._count, self.where = 0, "starting"
        self(self.where)

    def __call__(self, what: str, waits: bool = False) -> None:
        if self._file >= 0:
            self._count += 1
            line = f"{self._count} {int(waits)} {what}"[: WIDTH - 1]
            with writing(self._path):
                os.pwrite(self._file, line.ljust(WIDTH - 1).encode("ascii", "replace") + b"\n", 0)


@dataclass(frozen=True)
class Limits:
    """Seconds. A step may be long: then its rank uses the processor, or is no longer than many steps before it."""

    stopped: float = 15.0  # by SIGSTOP
    idle: float = 35.0  # neither waiting nor computing
    together: float = 45.0  # all wait for one another
    busy: float = 45.0  # computing, while the others wait; and never before `times` its longest beat
    times: float = 20.0
    early: float = (
        120.0  # the same in the first steps, once another rank has done as much: then never before `times` its longest
    )
    first: float = 1800.0  # where nobody has, or ranks of unlike devices take unlike times
    disk: float = 1800.0  # starting, saving and ending, where a disk may be slow
    idle_share: float = 0.005  # of a core: below it a rank does not compute


LIMITS = Limits()
SLOW = ("starting", "saving", "ending")
KNOWN = 50  # beats after which the longest is worth something


@dataclass
class Rank:
    """What the launcher knows of one rank."""

    rank: int
    pid: int
    path: Path
    line: str = ""
    since: float = 0.0  # when the beat changed
    used: float = 0.0  # seconds of processor time then
    stopped: float | None = None
    longest: float = 0.0  # time without a new beat, in steps

    def said(self) -> str:
        """The beat in its file: "count waits what"."""
        try:
            return self.path.read_text(encoding="ascii").rstrip()
        except OSError:
            return ""

    @property
    def count(self) -> int:
        return int(self.line.split(" ", 1)[0] or 0)

    @property
    def waits(self) -> bool:
        return self.line.split(" ", 2)[1:2] == ["1"]

    @property
    def what(self) -> str:
        return (self.line.split(" ", 2)[2:] or ["starting"])[0]

    @property
    def slow(self) -> bool:
        return self.what.startswith(SLOW)


def processor(pid: int) -> tuple[str, float]:
    """A process's state, as in /proc/<pid>/stat, and the seconds of processor time that it has used; "" if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / TICKS


class Judge:
    """Asked often, names the rank that hangs and what it did, or None."""

    def __init__(
        self, pids: dict[int, int], folder: Path, alone: bool = True, alike: bool = True, limits: Limits | None = None
    ) -> None:
        """alone: no other machine has ranks; alike: all ranks compute on the same kind of device."""
        self.ranks = [Rank(rank, pid, folder / str(rank)) for rank, pid in pids.items()]
        self.alone, self.alike, self.limits, self._asked = alone, alike, limits or LIMITS, time.monotonic()
        self._start_again(self._asked)

    def _start_again(self, now: float) -> None:
        for rank in self.ranks:
            rank.since, rank.used, rank.stopped = now, processor(rank.pid)[1], None

    def __call__(self) -> tuple[Rank, str] | None:
        now = time.monotonic()
        if now - self._asked > 5.0:  # the launcher itself was stopped: it knows nothing of that time
            self._start_again(now)
        self._asked = now
        living = [rank for rank in self.ranks if self._look(rank, now)]
        return next((found for rank in living if (found := self._judge(rank, living, now))), None)

    def _look(self, rank: Rank, now: float) -> bool:
        """Read a rank's beat and state; whether it lives."""
        state, used = processor(rank.pid)
        if state in ("", "Z", "X"):
            return False
        rank.stopped = (rank.stopped or now) if state in "Tt" else None
        line = rank.said()
        if line != rank.line:
            if rank.what.startswith("step") and not rank.waits:
                rank.longest = max(rank.longest, now - rank.since)
            rank.line, rank.since, rank.used = line, now, used
        return True

    def _judge(self, rank: Rank, living: list[Rank], now: float) -> tuple[Rank, str] | None:
        limits, silent = self.limits, now - rank.since
        used = processor(rank.pid)[1] - rank.used
        idle = used < limits.idle_share * silent
        if rank.stopped and now - rank.stopped > limits.stopped:
            return rank, f"is stopped (SIGSTOP) since {now - rank.stopped:.0f} s"
        if rank.waits:
            together = all(other.waits and now - other.since > limits.together for other in living)
            # Between machines the late one may be elsewhere, and its own launcher says so.
            if self.alone and together and idle and rank is min(living, key=lambda other: other.since):
                places = ", ".join(f"rank {other.rank} in {other.what}" for other in living)
                return rank, f"and the others wait for one another since {silent:.0f} s: {places}"
            return None
        if rank.slow:
            return (rank, f"has not gone on for {silent:.0f} s") if silent > limits.disk else None
        if idle and silent > limits.idle:
            return rank, f"hangs: nothing computed for {silent:.0f} s"
        if silent > self._longest(rank, living) and all(now - other.since > limits.busy for other in living):
            return rank, f"hangs: it computes without an end for {silent:.0f} s, its longest was {rank.longest:.1f} s"
        return None

    def _longest(self, rank: Rank, living: list[Rank]) -> float:
        """How long a rank may compute while the others wait."""
        limits = self.limits
        if rank.count >= KNOWN:
            return max(limits.busy, limits.times * rank.longest)
        others = [other for other in living if other is not rank]
        if self.alike and any(other.waits and other.what.startswith("step") for other in others):
            return max(limits.early, limits.times * max(other.longest for other in others))
        return limits.first
