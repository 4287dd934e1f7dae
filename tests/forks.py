"""Starts Snakemake, and stages that compute, by a fork of a process that has imported what takes long: one to three
seconds less a start. The child is that command from its first line on, with its own arguments, folder, variables and
streams; nothing of the project is imported before the fork.

    python tests/forks.py torch     reads a line of JSON per start, writes a line with the exit code
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
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


def serve(kind: str) -> None:
    for name in IMPORTED[kind]:
        importlib.import_module(name)
    gc.freeze()  # or a collection in the child would copy every page
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(words: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> None:
    """`python -m <words>`, with stdout and stderr into files; ends the process as that does."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in zip((1, 2), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    sys.exit(0)


@cache
def server(kind: str) -> subprocess.Popen[str]:
    """One of a kind per process of tests; it ends with it."""
    env = {name: value for name, value in os.environ.items() if name not in ("SAMEBITS_BUILD", "PYTHONPATH")}
    env["OMP_WAIT_POLICY"] = "passive"  # threads of a fork would spin for seconds where cores are few
    return subprocess.Popen(
        [sys.executable, __file__, kind], cwd="/", env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def forked(kind: str, words: list[str], cwd: Path, env: dict[str, str], together: bool = False) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python -m <words>`; together: both in stdout, as they come."""
    process: Any = server(kind)
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        streams = [out.name, out.name if together else err.name]
        request = {"words": words, "cwd": str(cwd), "env": env, "streams": streams}
        print(json.dumps(request), file=process.stdin, flush=True)
        return int(process.stdout.readline()), out.read(), err.read()


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    serve(sys.argv[1])
