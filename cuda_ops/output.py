"""What a stage says: on its streams as long as somebody reads them, and in a log of its own.

A reader that ends (a closed terminal, a killed `tee`) costs the lines that it would have read, and nothing else.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

from cuda_ops.errors import FULL, UserError, refusal

FLAG = "--log"
HELP = f"""
of every command:
  {FLAG} FILE            write what is said to this file too, and go on when the reader of the output ends"""


class Lines(io.TextIOBase):
    """Text to some file descriptors, in whole lines, so that those of several ranks do not mix; a dead one is left out."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, number: int, descriptors: list[int]) -> None:
        self._number, self._descriptors, self._text = number, descriptors, ""
        self._tty = len(descriptors) == 1 and os.isatty(descriptors[0])

    def write(self, text: str) -> int:
        self._text += text
        whole, newline, self._text = self._text.rpartition("\n")
        self._emit((whole + newline).encode(self.encoding, self.errors))
        return len(text)

    def flush(self) -> None:
        text, self._text = self._text, ""
        self._emit(text.encode(self.encoding, self.errors))

    def _emit(self, content: bytes) -> None:
        for descriptor in list(self._descriptors if content else []):
            try:
                left = memoryview(content)
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError as error:  # a closed pipe, a terminal that is gone, a full disk
                self._descriptors.remove(descriptor)
                if error.errno in FULL:
                    self._lost(descriptor, error)

    def _lost(self, descriptor: int, error: OSError) -> None:
        """Say on the descriptors that are left that one's disk is full; once for the log, which both streams have."""
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path not in Output.full:
            Output.full.append(path)
            self._emit(f"warning: {refusal(error, path)}; what is said from here on is missing there\n".encode())

    def isatty(self) -> bool:
        """Without a log only: what is written over in place on a terminal is no line of a log."""
        return self._tty

    def fileno(self) -> int:
        return self._number

    def writable(self) -> bool:
        return True


class Output:
    """This process's streams, once they are guarded: the log's path and what was there before."""

    log: Path | None = None
    streams: tuple[int, int] | None = None  # descriptors of the readers
    full: ClassVar[list[Path]] = []  # files on disks that were found full


def take_log(arguments: list[str]) -> Path | None:
    """Take `--log FILE` or `--log=FILE` out of a command line; returns the file."""
    for at, word in enumerate(arguments):
        if word == FLAG and at + 1 < len(arguments):
            del arguments[at]
            return Path(arguments.pop(at))
        if word.startswith(FLAG + "="):
            return Path(arguments.pop(at)[len(FLAG) + 1 :])
        if word == FLAG:
            raise UserError(f"{FLAG}: expected a file after it")
    return None


def listing(text: str) -> None:
    """Print what was asked for as a list. A reader that has had enough (head) is no error: this ends in silence, with
    the code of a tool that SIGPIPE ended."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the interpreter's own flush
        sys.exit(128 + signal.SIGPIPE)


def guard(log: Path | None = None) -> None:
    """Survive the readers of stdout and stderr; with a log, what C and CUDA print goes there too, and there alone."""
    if Output.streams:
        return
    Output.streams, Output.log = (os.dup(1) if sys.stdout else -1, os.dup(2) if sys.stderr else -1), log
    file = -1
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    for number, name in ((1, "stdout"), (2, "stderr")):
        reader, stream = Output.streams[number - 1], getattr(sys, name)
        if stream:
            stream.flush()
        if log and stream:
            os.dup2(file, number)
        if stream or log:
            setattr(sys, name, Lines(number, [descriptor for descriptor in (reader, file) if descriptor >= 0]))


def leave(code: int) -> None:
    """End at once, with all that was said, without any destructor: a lost GPU or peer would hang or abort there."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, AttributeError, ValueError):
            continue
    ctypes.CDLL(None).fflush(None)  # what C has printed, a kernel's line among it
    os._exit(code)
