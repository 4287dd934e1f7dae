"""The real Snakemake on a copy of the project, as tests run it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.forks import forked, forking_python

EVERYTHING = {"download", "prepare_text", "train", "evaluate", "sample", "digest", "verify", "spikes", "report"}
FROM_TRAINING = EVERYTHING - {"download", "prepare_text"}
FROM_SAMPLES = {"sample", "digest", "verify", "report"}
LOUD = ("--workflow-profile", "none")  # Snakemake's own words


def snakemake(
    project: Path, *flags: str, recipe: str = "tiny", code: int = 0, config: tuple[str, ...] = (),
    target: str = "reproduction", cores: tuple[str, ...] = ("--cores", "2"), cwd: Path | None = None,
) -> str:  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k not in ("SAMEBITS_BUILD", "PYTHONPATH")}
    words = [
        "-m",
        "snakemake",
        "-s",
        str(project / "Snakefile"),
        *cores,
        *flags,
        "--config",
        f"recipe={recipe}",
        *config,
        "--",
        target,
    ]
    found, said, _ = forked("snakemake", words, cwd or project, env, together=True, python=forking_python())
    assert found == code, said[-4000:]
    return said


def would_run(project: Path, *flags: str, **options: Any) -> set[str]:
    return rules_of(snakemake(project, "-n", *flags, **options))


def rules_of(output: str) -> set[str]:
    rules = set(re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE))
    assert rules or "Nothing to be done" in output
    return rules - {"reproduction"}


@contextmanager
def edited(path: Path, edit: tuple[str, str] | str) -> Iterator[None]:
    """A file with one text replaced by another, or with a text added at its end."""
    text = path.read_text()
    if isinstance(edit, tuple):
        assert edit[0] in text, f"{edit[0]!r} is not in {path}"
    path.write_text(text + edit if isinstance(edit, str) else text.replace(*edit, 1))
    try:
        yield
    finally:
        path.write_text(text)
