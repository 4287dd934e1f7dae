"""Starts Snakemake, and stages that compute, by a fork of a process that has imported what takes long: one to three
seconds less a start. The child is that command from its first line on, with its own arguments, folder, variables and
streams; nothing of the project is imported before the fork.

    python tests/forks.py serve torch FD            waits on a listening socket; a connection is a start
    python tests/forks.py ask SOCKET -m pipeline.x  what forking_python() writes: in place of python, for stages alone

A variable of the interpreter, the loader or a library that is imported already cannot reach such a child: who asks
with another value than the server's starts the real python.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = {
    "torch": ("torch", "pydantic", "yaml"),
    "snakemake": (
        "snakemake.cli",
        "snakemake.report",
        "snakemake.utils",
        "smart_open",
        "jsonschema",
        "pandas",
        "torch",
    ),
}
# How the names of variables begin that are read before a program's first line; numbers of threads, `become` sees to.
READ_EARLY = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "GLIBC_")
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def serve(kind: str, listening: int) -> None:
    import gc
    import importlib
    import select

    for name in IMPORTED[kind]:
        importlib.import_module(name)
    gc.freeze()  # or a collection in the child would copy every page
    signal.signal(signal.SIGCHLD, reap)
    with socket.socket(fileno=listening) as listener:
        watched: list[Any] = [listener, 0]
        while 0 not in select.select(watched, [], [])[0]:  # who asked for this server has ended
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(connection)
            connection.close()


def reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def answer(connection: socket.socket) -> None:
    """In a process of its own, so that starts do not wait for one another: that the child has begun, and then its code.

    Each byte that comes is a signal for the child. Where the asker ends first, however it ends, so does the child.
    """
    import select

    _, streams, _, _ = socket.recv_fds(connection, 1, 2)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        become(streams=streams, **request)
    for stream in streams:
        os.close(stream)
    with suppress(OSError):
        connection.sendall(b"begun\n")
    ended = os.pidfd_open(pid)
    watched: list[Any] = [connection, ended]
    while ended not in select.select(watched, [], [])[0]:
        numbers = b""
        with suppress(ConnectionResetError):
            numbers = connection.recv(64)
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)
    with suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
    os._exit(0)


def become(
    words: list[str], cwd: str, env: dict[str, str], python: str, streams: list[int], ignored: list[int]
) -> None:
    """`python -m <words>` or `python -c <words>`, with stdout and stderr where they shall go; ends the process as that
    does. ignored: the signals that the asker ignores, as under nohup, which a child inherits.
    """
    import runpy
    from types import ModuleType

    for number in (signal.SIGHUP, *ignored):
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    if "--ranks" in words and "RANK" not in env:
        keep_spares(int(words[words.index("--ranks") + 1]), streams)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if env.get("OMP_NUM_THREADS", "").isdigit():
        sys.modules["torch"].set_num_threads(int(env["OMP_NUM_THREADS"]))
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.executable = python
    how, what, *more = words
    sys.argv = [what if how == "-m" else how, *more]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(what, "<string>", "exec", dont_inherit=True), vars(main))
    sys.exit(0)


def keep_spares(count: int, streams: list[int]) -> None:
    """Children that wait, for a launcher to take in place of `python -m`: a rank is its child, and has imported torch."""
    import subprocess
    import threading

    waiting: list[tuple[socket.socket, int]] = []
    for _ in range(count):
        ours, its = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            for connection, _ in [*waiting, (ours, 0)]:
                connection.close()
            for stream in streams:
                os.close(stream)
            _, streams, _, _ = socket.recv_fds(its, 1, 2)
            if not streams:  # the launcher has ended
                os._exit(0)
            request = json.loads(its.makefile().readline())
            its.close()
            become(streams=streams, **request)
        its.close()
        waiting.append((ours, pid))

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, args: Any, **given: Any) -> None:
            if not waiting or list(args[:2]) != [sys.executable, "-m"]:
                super().__init__(args, **given)
                return
            connection, self.pid = waiting.pop(0)
            self.args, self.returncode, self.stdin, self.stdout, self.stderr = args, None, None, None, None
            self._child_created, self._waitpid_lock = True, threading.Lock()
            files = [given.get(name) or number for number, name in enumerate(("stdout", "stderr"), 1)]
            request = {"words": args[1:], "cwd": os.getcwd(), "env": given["env"], "python": sys.executable}
            request["ignored"] = ignored_here()
            with connection:
                socket.send_fds(connection, [b"."], [f if isinstance(f, int) else f.fileno() for f in files])
                connection.sendall(json.dumps(request).encode() + b"\n")

    subprocess.Popen = Popen  # type: ignore[misc, assignment]


def ignored_here() -> list[int]:
    return [number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]


@cache
def server(kind: str) -> str:
    """The address of one of a kind per process of tests; it ends with it."""
    import atexit
    import shutil
    import subprocess
    import tempfile

    env = {name: value for name, value in os.environ.items() if name not in ("SAMEBITS_BUILD", "PYTHONPATH")}
    env["OMP_WAIT_POLICY"] = "passive"  # threads of a fork would spin for seconds where cores are few
    folder = tempfile.mkdtemp(prefix="forks-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = os.path.join(folder, kind)
    Path(f"{address}.env").write_text(json.dumps(read_early(env)))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, __file__, "serve", kind, str(listener.fileno())],
            cwd="/", env=env, stdin=subprocess.PIPE, pass_fds=[listener.fileno()],
        )  # fmt: skip
    STARTED.append(process)
    return address


STARTED: list[Any] = []  # kept, and so the pipes by which they see the end


def read_early(env: dict[str, str]) -> dict[str, str]:
    names = {name for name in env if name.startswith(READ_EARLY) and not name.endswith("_NUM_THREADS")}
    return {name: env[name] for name in names - {"PYTHONPATH"}}


def too_late(address: str, env: dict[str, str]) -> bool:
    """Whether a variable would have to be read that the server has read already, with another value."""
    early: dict[str, str] = json.loads(Path(f"{address}.env").read_text())
    return read_early(env) != early


def asked(address: str, streams: list[int], passing: bool = False, **request: Any) -> int:
    """Exit code of one start, negative for a signal. passing: this process is all that its own asker knows of, so the
    signals that it gets, and had blocked until now, are the child's.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"."], streams)
        connection.sendall(json.dumps(request).encode() + b"\n")
        lines = connection.makefile()
        lines.readline()

        def pass_on(number: int, _: object) -> None:
            with suppress(OSError):  # it has ended
                connection.sendall(bytes([number]))

        if passing:
            for number in PASSED_ON:
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, pass_on)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        return int(lines.readline())


def forked(
    kind: str, words: list[str], cwd: Path, env: dict[str, str], together: bool = False, python: str = sys.executable
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python <words>`, which are -m or -c and more; together: both in stdout, as they
    come. python: what the child takes for its own, to start others with."""
    import subprocess
    import tempfile

    address = server(kind)
    with tempfile.NamedTemporaryFile("a+") as out, tempfile.NamedTemporaryFile("a+") as err:
        streams = [out.fileno(), out.fileno() if together else err.fileno()]
        if too_late(address, env):
            code = subprocess.run([sys.executable, *words], cwd=cwd, env=env, stdout=out, stderr=streams[1]).returncode
        else:
            code = asked(address, streams, words=words, cwd=str(cwd), env=env, python=python, ignored=[])
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
        return code, texts[0], texts[1]


@cache
def forking_python() -> str:
    """A program to call in place of python: stages are forked, as `forked` does, and everything else is python's."""
    from shlex import quote

    address = server("torch")
    path = Path(address).parent / "bin" / "python"
    path.parent.mkdir()
    words = " ".join(quote(word) for word in (sys.executable, "-SEs", __file__, "ask", address, sys.executable))
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return str(path)


def ask(address: str, python: str, *words: str) -> None:
    ours = words[0] == "-c" or (words[0] == "-m" and words[1].startswith(("pipeline.", "tests.")))
    env = dict(os.environ)
    if not ours or too_late(address, env):
        os.execv(python, [python, *words])
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    code = asked(
        address, [1, 2], passing=True, words=words, cwd=os.getcwd(), env=env, python=python, ignored=ignored_here()
    )
    if code < 0:
        with suppress(OSError):  # of SIGKILL, which none can handle
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.path.pop(0)  # this folder
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        ask(*sys.argv[2:])
