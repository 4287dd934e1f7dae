"""Starts the ranks of this machine, watches them, and says which one failed.

Every rank is a child process with the variables that torchrun would set. The first that fails is named at once and
the others are ended; one that hangs is named by its heartbeat (beats.py). Nothing here needs a network, a host name
or torchrun.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cuda_ops import output
from pipeline.machine.beats import Judge, Rank
from pipeline.machine.execution import Execution
from pipeline.machine.meeting import Meeting, interface_towards
from pipeline.machine.place import BEATS, LAUNCHER, LOCAL, NEEDED, note_foreign, place_of
from pipeline.machine.ranks import LOST
from pipeline.machine.stops import PASSED_SAVE, Stops, stop_with_snakemake

GRACE = 5.0  # seconds between SIGTERM and SIGKILL for the ranks that a failure leaves
CULPRIT = 5.0  # seconds in which the rank that the others have lost must show
POLL = 0.1


def launch(execution: Execution, module: str) -> None:
    """Run this command on execution.ranks processes and exit with their code; return where this process computes."""
    if sys.stdout is sys.__stdout__:
        output.guard()
    if place_of(execution.ranks, execution.nodes):
        return
    note_foreign(execution.ranks)
    stop_with_snakemake()
    if execution.ranks > 1:
        sys.exit(Launcher(execution, module).run())


class Launcher:
    """The ranks of one machine, from their start to their end."""

    def __init__(self, execution: Execution, module: str) -> None:
        self.stops = Stops()
        signal.signal(PASSED_SAVE, signal.SIG_IGN)  # which a rank inherits: until it listens, it does not end by one
        self.local = execution.ranks // execution.nodes
        self.meeting = Meeting(execution.ranks, execution.nodes, execution.rendezvous)
        self.first = self.meeting.node * self.local
        self.folder = Path(tempfile.mkdtemp(prefix="samebits-"))
        log = [output.FLAG, str(output.Output.log)] if output.Output.log else []
        command = [sys.executable, "-m", module, *sys.argv[1:], *log]
        stdout, stderr = output.Output.streams or (None, None)
        self.children = {
            rank: subprocess.Popen(
                command,
                env=self._environment(rank, execution.ranks),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
            for rank in range(self.first, self.first + self.local)
        }
        pids = {rank: child.pid for rank, child in self.children.items()}
        self.judge = Judge(pids, self.folder, execution.nodes == 1, len(set(execution.device.split(","))) == 1)
        self.passed = 0  # the signal that was passed on to the ranks

    def _environment(self, rank: int, ranks: int) -> dict[str, str]:
        """What a rank reads; whatever a cluster has set under these names is not about it."""
        values = [str(rank), str(ranks), self.meeting.host, str(self.meeting.port)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
        env |= dict(zip(NEEDED, values, strict=True))
        env |= dict(zip(LOCAL, (str(rank - self.first), str(self.local)), strict=True))
        env |= {LAUNCHER: str(os.getpid()), BEATS: str(self.folder)}
        env.setdefault("OMP_NUM_THREADS", "1")  # of PyTorch's own; ours are set by --threads
        if self.meeting.nodes == 1:
            env["GLOO_SOCKET_IFNAME"] = "lo"
        elif "GLOO_SOCKET_IFNAME" not in env:
            name = interface_towards(self.meeting.host, self.meeting.port)
            env |= {"GLOO_SOCKET_IFNAME": name} if name else {}
        return env

    def run(self) -> int:
        """Wait for the end of all; returns the exit code of the run."""
        try:
            return self._watch()
        finally:
            self._end(0.0)
            self.meeting.leave()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _living(self) -> dict[int, subprocess.Popen[bytes]]:
        return {rank: child for rank, child in self.children.items() if child.poll() is None}

    def _watch(self) -> int:
        while living := self._living():
            if self.stops.number and not self.passed:
                self.passed = self.stops.number
                for child in living.values():
                    child.send_signal(self.passed)
            if self.stops.saves():
                for child in living.values():
                    child.send_signal(PASSED_SAVE)
            codes = {rank: child.returncode for rank, child in self.children.items() if child.returncode}
            if not all(self._asked(code) for code in codes.values()):
                return self._failed()
            hung = self.judge()
            if hung:
                return self._hangs(*hung)
            elsewhere = self.meeting.others()
            if elsewhere:
                return self._lost(elsewhere)
            time.sleep(POLL)
        codes = {rank: child.returncode for rank, child in self.children.items() if child.returncode}
        if not codes:
            return 0
        if not all(self._asked(code) for code in codes.values()):
            return self._failed()
        return 128 + self.passed if self.passed else next(iter(codes.values()))

    def _asked(self, code: int) -> bool:
        """Whether a rank has stopped as it was asked; one that was still starting ends by the signal itself, and its peers
        lose it."""
        return code > 128 or (bool(self.passed) and code in (-self.passed, LOST))

    def _failed(self) -> int:
        """A rank has ended badly: name the first that did so by itself, end the others."""
        deadline, found = time.monotonic() + CULPRIT, None
        while found is None and time.monotonic() < deadline:
            living = self._living()
            codes = {rank: child.returncode for rank, child in self.children.items() if child.returncode}
            # A rank that was killed says nothing, so it goes before one that has said why.
            found = next(iter(sorted((code, rank) for rank, code in codes.items() if code != LOST)), None)
            elsewhere = self.meeting.others()
            if found is None and elsewhere:
                return self._lost(elsewhere)
            if found is None and not living:
                break
            time.sleep(POLL)
        if found is None:
            return self._lost(self._words())
        code, rank = found
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._say(f"rank {rank} ended {how}", f"{self._where(rank)}The last checkpoint is kept")
        self._end(GRACE)
        return 128 - code if code < 0 else code

    def _where(self, rank: int) -> str:
        """What a rank did when it ended; empty if it had not begun to say."""
        known = next(known for known in self.judge.ranks if known.rank == rank)
        known.line = known.said()
        return f"It was at: {known.what}. " if known.line else ""

    def _words(self) -> str:
        """What a rank that lost its peers has heard from gloo or NCCL."""
        for path in sorted(self.folder.glob("lost.*")):
            return path.read_text(encoding="utf-8")
        return "the ranks lost one another"

    def _hangs(self, rank: Rank, words: str) -> int:
        self._say(f"rank {rank.rank} {words}, at: {rank.what}", "The last checkpoint is kept")
        child = self.children[rank.rank]
        if rank.stopped is None:
            child.send_signal(signal.SIGUSR1)  # its Python stack, see ranks.py
            time.sleep(1.0)
        child.kill()
        self._end(GRACE)
        return 128 + signal.SIGKILL

    def _lost(self, words: str) -> int:
        if self.meeting.nodes > 1 and "another" not in words:
            words = f"another machine's part of the run ended: {words}"
        print(f"error: {words}", file=sys.stderr, flush=True)
        self.meeting.fail(words)
        self._end(GRACE)
        return LOST

    def _say(self, what: str, more: str) -> None:
        others = "; the others were stopped. " if len(self.children) > 1 or self.meeting.nodes > 1 else ". "
        print(f"error: {what}{others}{more}", file=sys.stderr, flush=True)
        self.meeting.fail(what)

    def _end(self, grace: float) -> None:
        """End what still runs; a rank that saves a checkpoint may finish it."""
        for child in self._living().values():
            child.terminate()
        deadline = time.monotonic() + grace
        while living := self._living():
            self.judge()
            saving = {known.rank for known in self.judge.ranks if known.what == "saving"}
            for rank, child in living.items():
                if time.monotonic() > deadline and (rank not in saving or grace == 0.0):
                    child.kill()
            time.sleep(POLL)
