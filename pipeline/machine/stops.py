"""Signals that ask for an end, and parents whose end is one."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
from pathlib import Path

from pipeline.machine.place import LAUNCHER

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


# Asks for a checkpoint. A rank's launcher passes it on under another number: the first asks a rank for its stack.
SAVE, PASSED_SAVE = signal.SIGUSR1, signal.SIGUSR2


class Stops:
    """From its making on SIGTERM, SIGINT and SIGHUP are noted instead of obeyed; number is the first, or 0.

    SIGUSR1 is noted too: whoever asks saves() is told of it once.
    """

    def __init__(self) -> None:
        self.number, self._save = 0, False
        signal.signal(PASSED_SAVE if LAUNCHER in os.environ else SAVE, self._note_save)
        for number in ASKING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it for SIGHUP
                signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.number = self.number or number

    def _note_save(self, number: int, frame: object) -> None:
        self._save = True

    def saves(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._save = self._save, False
        return asked


def stop_with_parent() -> None:
    """Ask Linux for a SIGTERM when the launcher ends, however it ends, so that no rank outlives it."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != int(os.environ.get(LAUNCHER, os.getppid())):  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def ancestors() -> list[int]:
    """Process numbers of parent, grandparent and so on."""
    found: list[int] = []
    pid = os.getppid()
    while pid > 1:
        found.append(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def snakemake() -> int | None:
    """The process number of the Snakemake that started this stage, directly or through a shell."""
    for pid in ancestors():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:4]
        except OSError:
            continue
        if any(os.path.basename(word) == b"snakemake" for word in words):
            return pid
    return None


def stop_with_snakemake() -> None:
    """SIGTERM to this process when the Snakemake that started it ends, however it ends: then nobody waits for the result.

    The shell between the two would live on after `kill -9` of Snakemake, so it is Snakemake itself that is watched.
    """
    pid = snakemake()
    if pid is None:
        return
    try:
        watched = os.pidfd_open(pid)
    except OSError:
        return

    def wait() -> None:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="stop with snakemake").start()
