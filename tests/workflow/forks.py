"""Starts the real Snakemake by a fork of a process that has imported it, and torch: one to three seconds less a start.

python tests/workflow/forks.py     reads a line of JSON per start, writes a line with the exit code
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = (
    "snakemake.cli",
    "snakemake.report",
    "snakemake.utils",
    "smart_open",
    "yte",
    "jsonschema",
    "pandas",
    "torch",
)


def serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(words: list[str], cwd: str, env: dict[str, str], output: str) -> None:
    """`python -m snakemake <words>` with its output into a file; ends the process as that does."""
    from snakemake.cli import main

    said, nothing = os.open(output, os.O_WRONLY | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0), os.dup2(said, 1), os.dup2(said, 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [cwd]  # as -m does
    sys.argv = ["snakemake", *words]
    sys.exit(main(words))


@cache
def server() -> subprocess.Popen[str]:
    """One per process of tests; it ends with it."""
    env = {name: value for name, value in os.environ.items() if name not in ("SAMEBITS_BUILD", "PYTHONPATH")}
    return subprocess.Popen(
        [sys.executable, __file__], cwd="/", env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def snakemake_once(words: list[str], cwd: Path, env: dict[str, str]) -> tuple[int, str]:
    """Exit code, and what it said, both streams together."""
    process: Any = server()
    with tempfile.NamedTemporaryFile("r") as said:
        request = {"words": words, "cwd": str(cwd), "env": env, "output": said.name}
        print(json.dumps(request), file=process.stdin, flush=True)
        return int(process.stdout.readline()), said.read()


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    serve()
