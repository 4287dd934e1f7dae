"""What every benchmark prints beside its numbers, and where."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cuda_ops import runtime
from pipeline.base.files import write_bytes
from pipeline.records.receipt import machine


def header(threads: int, method: str) -> str:
    """Machine, versions and method in one line."""
    about = machine()
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
    return (
        f"{about['cpus']} cores of {about['cpu']} (kernels: {runtime.isa()}), {compiler[0] if compiler else 'no compiler'}, "
        f"torch {about['versions']['torch']}, {threads} threads, {method}"
    )


def write(lines: list[str], out: Path | None) -> None:
    """Print a table, and write it to a file if one is named."""
    print("\n".join(lines))
    if out:
        write_bytes(out, ("\n".join(lines) + "\n").encode())
