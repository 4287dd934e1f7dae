"""The JSON of a GPU proof: one file per GPU, sources and machine, into which parts of several runs are merged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline.evidence.gpu_parts import PARTS, Result

# What must be equal for two runs to be one proof.
IDENTITY = ("device", "brief", "sources", "trainer", "machine")


def made(device: str, brief: bool, machine: dict[str, Any]) -> dict[str, Any]:
    """An empty record of the sources at hand on a machine."""
    from cuda_ops.build import source_digest
    from pipeline.records.code_digest import code_digest

    return {
        "device": device, "brief": brief, "sources": source_digest(), "trainer": code_digest("pipeline.training.trainer"),
        "machine": machine, "parts": [],
    }  # fmt: skip


def add(record: dict[str, Any], results: list[Result], command: str) -> None:
    """Put results in, in the order of PARTS. What a part gave before stays under its `earlier`, newest first."""
    by_name = {part["name"]: part for part in record["parts"]}
    for result in results:
        new = asdict(result) | {"command": command, "earlier": []}
        old = by_name.get(result.name)
        if old:
            new["earlier"] = [{key: old[key] for key in ("date", "verdict", "seconds", "detail")}, *old["earlier"]]
        by_name[result.name] = new
    order = [*PARTS, *by_name]
    record["parts"] = sorted(by_name.values(), key=lambda part: order.index(part["name"]))


def place(folder: Path, record: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Where a record belongs, and the one that is already there for the same sources and machine, or `record` itself.

    <gpu>-<sources>.json; another machine's file of that name is left alone, and the next free number is taken.
    """
    gpu = record["machine"].get("gpu", {}).get("name", record["device"]).lower().replace(" ", "-")
    stem = f"{gpu}-{'brief-' if record['brief'] else ''}{record['sources'][:8]}"
    number = 1
    while True:
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        if not path.exists():
            return path, record
        try:
            there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise UserError(f"{path}: not JSON, so nothing can be merged into it; move it away") from None
        if all(there.get(key) == record[key] for key in IDENTITY):
            return path, there
        number += 1


def open_parts(record: dict[str, Any]) -> list[str]:
    """Parts that have not passed yet, missing ones included."""
    passed = {part["name"] for part in record["parts"] if part["verdict"] == "passed"}
    return [name for name in PARTS if name not in passed]
