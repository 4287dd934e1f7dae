"""What a stage ran on and how long it took: written beside the results, never hashed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base.files import write_json
from pipeline.recipe import Recipe, recipe_id
from pipeline.records.catalogue import receipts
from pipeline.records.code_digest import code_digest
from pipeline.records.contents import Facts, Machine, Receipt

PACKAGES = ("torch", "numpy", "safetensors", "tiktoken", "datasets", "snakemake")


def machine() -> Machine:
    """Host, CPU, memory and versions."""
    from importlib.metadata import PackageNotFoundError, version

    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        model = names[0] if names else model
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": model,
        "cpus": os.cpu_count(),
        "versions": versions,
    }


def made_by(recipe: Recipe) -> Facts:
    """What defines the bits of a training run, and may not be a machine's: recipe, numerics, sources, flags, code."""
    from cuda_ops import build, flags

    return {
        "recipe_id": recipe_id(recipe),
        "numerics": recipe.bits.numerics,
        "sources": build.source_digest(with_flags=False),
        "flags": hashlib.sha256("\n".join(flags.ARITHMETIC).encode()).hexdigest(),
        "ops": build.source_digest(),
        "code": code_digest("pipeline.training.trainer"),
    }


@contextmanager
def receipt(path: Path, stage: str) -> Iterator[Facts]:
    """Times the block and writes what it put into the facts, with the machine, to `path`."""
    facts: Facts = {}
    began, clock = time.time(), time.perf_counter()
    yield facts
    usage = resource.getrusage(resource.RUSAGE_SELF)
    content: Receipt = {
        "stage": stage,
        "command": " ".join(sys.argv[1:]),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.perf_counter() - clock, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_memory_mib": round(usage.ru_maxrss / 1024, 1),
        "machine": machine(),
        **facts,
    }
    write_json(path, content)


def read_receipts(folder: Path, recipe: Recipe | None = None) -> list[Receipt]:
    """The receipts of a run in the order of their beginning; all in the folder where the recipe is not known."""
    present = sorted(folder.glob("*.json"))
    own = {path.name for path in present} if recipe is None else set(receipts(recipe))
    found = [_read(path) for path in present if path.name in own]
    return sorted(found, key=lambda item: item["began"])


def _read(path: Path) -> Receipt:
    try:
        content: Receipt = json.loads(path.read_text(encoding="utf-8"))
        content["began"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a receipt: {error}; move it away: no digest depends on it") from None
    return content
