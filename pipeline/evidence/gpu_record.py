"""The JSON of a GPU proof: one file per GPU, sources and machine, into which parts of several runs are merged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cuda_ops.errors import UserError
from pipeline.evidence.gpu_parts import PARTS, Result


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two runs to be one proof: not the kernel's release, which a second virtual machine of the
    same kind may have another of.
    """
    machine: dict[str, Any] = dict(record["machine"])
    name, _, rest = str(machine.get("system", "")).partition(" ")
    machine["system"] = f"{name} {rest.rpartition(' ')[2]}"
    return {key: record[key] for key in ("device", "brief", "sources", "trainer")} | machine


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
    _put(record, [asdict(result) | {"command": command, "earlier": []} for result in results])


RUN = ("date", "verdict", "seconds", "detail")  # what is kept of a run that does not count any more


def _put(record: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    """The last put counts; a run that is there already is not put again."""
    by_name = {part["name"]: part for part in record["parts"]}
    for part in parts:
        old = by_name.get(part["name"])
        known = [{key: old[key] for key in RUN}, *old["earlier"]] if old else []
        if {key: part[key] for key in RUN} not in known:
            earlier = [*(run for run in part["earlier"] if run not in known), *known]
            by_name[part["name"]] = part | {"earlier": earlier}
    order = [*PARTS, *by_name]
    record["parts"] = sorted(by_name.values(), key=lambda part: order.index(part["name"]))


def read(path: Path) -> dict[str, Any]:
    """A record that a proof wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        identity(found), found["parts"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the JSON that a proof left beside its page") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the JSON of a proof, so nothing can be merged with it; move it away") from None
    return dict(found)


def merged(paths: list[Path]) -> dict[str, Any]:
    """The records of several commands as one; where two have a part, the later named counts."""
    whole, *others = map(read, paths)
    for path, other in zip(paths[1:], others, strict=True):
        ours, theirs = identity(whole), identity(other)
        differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if differing:
            key = differing[0]
            raise UserError(
                f"{path}: another proof than {paths[0]}: {key} is {theirs.get(key)!r}, not {ours.get(key)!r}; both commands "
                "must run the same sources on the same kind of machine"
            )
        _put(whole, other["parts"])
    return whole


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
        there = read(path)
        if identity(there) == identity(record):
            return path, there
        number += 1


def open_parts(record: dict[str, Any]) -> list[str]:
    """Parts that have not passed yet, missing ones included."""
    passed = {part["name"] for part in record["parts"] if part["verdict"] == "passed"}
    return [name for name in PARTS if name not in passed]
