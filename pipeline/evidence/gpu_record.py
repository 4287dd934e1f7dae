"""The JSON of a GPU proof: one file per GPU, sources and machine, into which parts of several runs are merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from cuda_ops.errors import UserError
from pipeline.evidence.gpu_parts import PARTS, Result
from pipeline.records.contents import Machine


class Gpu(TypedDict):
    name: str
    capability: str
    memory: int  # bytes
    multiprocessors: int
    driver: str
    cuda: str | None


class ProofMachine(Machine):
    gpu: NotRequired[Gpu]


class Run(TypedDict):
    """What is kept of a run of a part that does not count any more."""

    date: str
    verdict: str
    seconds: float
    detail: str


class ProofPart(Run):
    name: str
    facts: dict[str, Any]  # what the page shows beside: of the part "speed" its rows, tables and targets
    command: str
    earlier: list[Run]  # newest first


class Proof(TypedDict):
    """The record, whole."""

    device: str
    brief: bool
    sources: str
    trainer: str
    machine: ProofMachine
    parts: list[ProofPart]


def identity(record: Proof) -> dict[str, Any]:
    """What must be equal for two runs to be one proof: not the kernel's release, which a second virtual machine of the
    same kind may have another of.
    """
    machine: dict[str, Any] = {**record["machine"]}
    name, _, rest = str(machine.get("system", "")).partition(" ")
    machine["system"] = f"{name} {rest.rpartition(' ')[2]}"
    own = {"device": record["device"], "brief": record["brief"]}
    return own | {"sources": record["sources"], "trainer": record["trainer"]} | machine


def made(device: str, brief: bool, machine: ProofMachine) -> Proof:
    """An empty record of the sources at hand on a machine."""
    from cuda_ops.build import source_digest
    from pipeline.records.code_digest import code_digest

    return {
        "device": device, "brief": brief, "sources": source_digest(), "trainer": code_digest("pipeline.training.trainer"),
        "machine": machine, "parts": [],
    }  # fmt: skip


def add(record: Proof, results: list[Result], command: str) -> None:
    """Put results in, in the order of PARTS. What a part gave before stays under its `earlier`, newest first."""
    made: list[ProofPart] = [
        {
            "name": result.name, "verdict": result.verdict, "seconds": result.seconds, "detail": result.detail,
            "date": result.date, "facts": result.facts, "command": command, "earlier": [],
        }
        for result in results
    ]  # fmt: skip
    _put(record, made)


def _run(part: ProofPart) -> Run:
    return {"date": part["date"], "verdict": part["verdict"], "seconds": part["seconds"], "detail": part["detail"]}


def _put(record: Proof, parts: list[ProofPart]) -> None:
    """The last put counts; a run that is there already is not put again."""
    by_name = {part["name"]: part for part in record["parts"]}
    for part in parts:
        old = by_name.get(part["name"])
        known = [_run(old), *old["earlier"]] if old else []
        if _run(part) not in known:
            earlier = [*(run for run in part["earlier"] if run not in known), *known]
            by_name[part["name"]] = {**part, "earlier": earlier}
    order = [*PARTS, *by_name]
    record["parts"] = sorted(by_name.values(), key=lambda part: order.index(part["name"]))


def read(path: Path) -> Proof:
    """A record that a proof wrote."""
    try:
        found: Proof = json.loads(path.read_text(encoding="utf-8"))
        identity(found), found["parts"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the JSON that a proof left beside its page") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the JSON of a proof, so nothing can be merged with it; move it away") from None
    return found


def merged(paths: list[Path]) -> Proof:
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


def place(folder: Path, record: Proof) -> tuple[Path, Proof]:
    """Where a record belongs, and the one that is already there for the same sources and machine, or `record` itself.

    <gpu>-<sources>.json; another machine's file of that name is left alone, and the next free number is taken.
    """
    machine = record["machine"]
    gpu = (machine["gpu"]["name"] if "gpu" in machine else record["device"]).lower().replace(" ", "-")
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


def open_parts(record: Proof) -> list[str]:
    """Parts that have not passed yet, missing ones included."""
    passed = {part["name"] for part in record["parts"] if part["verdict"] == "passed"}
    return [name for name in PARTS if name not in passed]
