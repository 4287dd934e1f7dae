"""Errors that are the user's to mend: one message, no traceback, exit code 2. docs/exit_codes.md has all codes."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

CODE, INTERRUPTED = 2, 130

# What the machine refuses, as the user reads it.
REFUSALS = {
    errno.ENOSPC: "no space left on the device; free some and run again",
    errno.EDQUOT: "no space left in the quota of the device; free some and run again",
    errno.EFBIG: "no space left: larger than a file may be here (ulimit -f)",
    errno.EROFS: "the file system is read-only; write elsewhere or mount it for writing",
    errno.EACCES: "permission denied; who runs this may not",
    errno.EPERM: "not permitted; who runs this may not",
    errno.ENAMETOOLONG: "a name is too long for this file system (mostly 255 bytes); choose a shorter one",
    errno.EIO: "the device failed (input/output error); see the kernel's log",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file of that name is in the way of a folder; move it away or choose another place",
    errno.EISDIR: "is a folder, not a file",
    errno.EMFILE: "too many open files (ulimit -n)",
}

FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk


class UserError(Exception):
    """A message that names what was given, what is allowed and the remedy."""

    code = CODE


class Fatal(UserError):
    """A UserError after which no destructor may run: a GPU or another rank is lost, and would abort or hang the end."""


class Ending:
    """at_once: a failure ends this process without destructors. Set where other ranks may sit in a collective."""

    at_once = False


def refusal(error: OSError, path: Path | None = None) -> str | None:
    """An error of the operating system as one line, or None for one that is a mistake of the program's.

    path: the file that the line names; the error's own, without one. A full disk is named by where it is mounted.
    """
    words = REFUSALS.get(error.errno or 0)
    if words is None:
        return None
    if error.errno not in FULL:
        return f"{path or error.filename or 'while writing'}: {words}"
    file = path or error.filename2 or error.filename  # of a copy, the second is the one that is written
    return f"{file}: {words.replace(';', f' mounted at {_mount(file)};', 1)}" if file else f"while writing: {words}"


def _mount(path: Path | str | bytes | int) -> Path:
    """Where the file system of a path is mounted."""
    place = Path(os.fsdecode(path) if isinstance(path, str | bytes) else str(path)).resolve()
    while not os.path.ismount(place) and place != place.parent:
        place = place.parent
    return place


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An error of the operating system that names no file names this one: a write knows a number only."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in REFUSALS:
            error.filename = str(path)
        raise


def named(words: str, command: list[str]) -> str:
    """Words whose advice is about `recipe …` or `recipe=…`, with the recipe that this command was given."""
    given = next((after for flag, after in pairwise(command) if flag == "--recipe"), None)
    if given is None:
        return words
    return words.replace("--recipe …", f"--recipe {shlex.quote(given)}").replace(
        "recipe=…", f"recipe={shlex.quote(given)}"
    )


def exit_on_user_error(main: Callable[[], int | None]) -> NoReturn:
    """Run a stage's main() with `--log FILE` handled; what the user can mend is one line on stderr and exit code 2."""
    from cuda_ops import output

    def end(code: int, words: str, at_once: bool = False) -> None:
        """Called while the error lives: with it its frames would go, and their tensors' destructors run."""
        say(words)
        if at_once or Ending.at_once:
            output.leave(code)

    code = 0
    try:
        log = output.take_log(sys.argv)
        if log:
            output.guard(log)
        code = main() or 0
        if sys.stdout:
            with writing(Path(os.path.realpath("/proc/self/fd/1"))):
                sys.stdout.flush()
    except SystemExit as ended:
        if not ended.code and {"-h", "--help"} & set(sys.argv[1:]):  # of argparse, which never sees --log
            output.listing(output.HELP)
        raise
    except UserError as error:
        code = error.code
        end(code, named(f"error: {error}", sys.argv) if str(error) else "", isinstance(error, Fatal))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the interpreter's own flush
        code = CODE
        end(code, "error: the reader of stdout has ended before this command; --log FILE keeps what is said")
    except OSError as error:
        words = refusal(error)
        if words is None:
            raise
        code = CODE
        end(code, f"error: {words}")
    except KeyboardInterrupt:
        code = INTERRUPTED
        end(code, "stopped by SIGINT")
    except Exception:
        if not Ending.at_once:
            raise
        end(1, traceback.format_exc().rstrip())
    if Ending.at_once and code:
        output.leave(code)
    sys.exit(code)


def say(words: str) -> None:
    """A line on stderr, if somebody is there."""
    try:
        if words:
            print(words, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
