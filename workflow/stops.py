"""A stop of Snakemake alone (`docker stop`, `timeout`, a supervisor) reaches the stages, as one of the group does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import psutil


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
    """Begin it, once Snakemake has its own handler, which then waits for the stages: each saves and ends."""
    own = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        for stage in stages(psutil.Process()):
            stage.terminate()
        if callable(own):
            own(number, frame)

    signal.signal(signal.SIGTERM, handle)
