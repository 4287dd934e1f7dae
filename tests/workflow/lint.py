"""The findings of Snakemake's linter, less the one that this project answers otherwise.

    python -m tests.workflow.lint
    the workflow: nothing to mend

Stages run in the environment of requirements.lock, which `make` installs, so no rule names a conda environment or a
container. Exit code 1: there are other findings.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANSWERED = "Specify a conda environment or container for each rule."


def findings(project: Path = ROOT) -> list[str]:
    """place: title, for each."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=project, capture_output=True, text=True, check=False
    )
    found, where, known = [], "", False
    for line in (done.stdout + done.stderr).splitlines():
        if line.startswith("Lints for "):
            where = line.removeprefix("Lints for ").rstrip(":")
        elif line.startswith("    * "):
            known = True
            title = line.removeprefix("    * ").rstrip(":")
            found += [f"{where}: {title}"] if title != ANSWERED else []
    if not known and "Congratulations" not in done.stdout + done.stderr:
        raise RuntimeError(f"snakemake --lint said neither yes nor no:\n{done.stdout}{done.stderr}")
    return found


if __name__ == "__main__":
    every = findings()
    print("\n".join(every) or "the workflow: nothing to mend")
    sys.exit(bool(every))
