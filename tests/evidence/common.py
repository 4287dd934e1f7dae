"""What the experiments of docs/evidence share: a tiny corpus, the machine, and where results go."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.base.files import write_json

ROOT = Path(__file__).resolve().parent.parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
WORK = ROOT / "results" / "evidence"
TINY = ROOT / "tests" / "recipes" / "tiny.yaml"


def prepared() -> Path:
    """Tokens of the tiny corpus, made at the first call, in results/evidence."""
    data, tokens = WORK / "data", WORK / "tokens"
    if not (tokens / "tokens.json").exists():
        for stage, extra in (("download", ["--out", data]), ("prepare_text", ["--data", data, "--out", tokens])):
            command = [sys.executable, "-m", f"pipeline.{stage}", "--recipe", str(TINY), *map(str, extra)]
            subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return tokens


def machine() -> str:
    """Processor, system, compiler and torch, in one line."""
    names = [
        x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    compiler = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    cpu = names[0] if names else platform.machine()
    return f"{len(names)} cores of {cpu}, Linux {platform.machine()}, gcc {compiler}, torch {torch.__version__.split('+')[0]}"


def save(name: str, result: dict[str, Any], folder: Path = EVIDENCE) -> None:
    """<folder>/<name>.json, with the day and the machine."""
    about = {"date": datetime.date.today().isoformat(), "machine": machine()}
    write_json(folder / f"{name}.json", about | result)
    print(folder / f"{name}.json")
