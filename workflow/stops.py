"""A stop of Snakemake alone (`docker stop`, `kill -INT`, a supervisor) reaches the stages, as one of the group does.

A terminal that closes ends Snakemake as SIGTERM does, so that it leaves no lock.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil

GRACE = 2.0  # seconds that a Ctrl-C, which reaches the stages by itself, has to be heard


def stages(process: psutil.Process) -> Iterator[psutil.Process]:
    """The commands of pipeline/ under a process; not their own children, which they stop themselves."""
    for child in process.children():
        try:
            if any(word.startswith("pipeline.") for word in child.cmdline()):
                yield child
            else:
                yield from stages(child)
        except psutil.NoSuchProcess:
            continue


def pass_stops_on() -> None:
    """Begin it, once Snakemake has its own handlers, which then wait for the stages: each saves and ends."""

    def end() -> None:
        for stage in stages(psutil.Process()):
            with suppress(psutil.NoSuchProcess):
                stage.terminate()

    polite = signal.getsignal(signal.SIGTERM)  # Snakemake's: no new job, and wait for those that run

    def passed_on(number: int) -> None:
        own = signal.getsignal(number)
        if number == signal.SIGHUP and own == signal.SIG_DFL:
            own = polite

        def handle(number: int, frame: Any) -> None:
            if number == signal.SIGINT:
                late = threading.Timer(GRACE, end)
                late.daemon = True
                late.start()
            else:
                end()
            if callable(own):
                own(number, frame)

        if own != signal.SIG_IGN:
            signal.signal(number, handle)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        passed_on(number)
