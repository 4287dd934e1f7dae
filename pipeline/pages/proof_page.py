"""The page of a GPU proof: everything in its record, as Markdown that reads well beside the other evidence."""

from __future__ import annotations

from pipeline.evidence import speed_targets
from pipeline.evidence.gpu_record import Proof, open_parts


def page(record: Proof) -> str:
    """Verdict, machine, parts, targets and the benchmarks' own tables."""
    machine = record["machine"]
    about: dict[str, object] = {**machine["gpu"]} if "gpu" in machine else {"name": machine["cpu"]}
    remaining = open_parts(record)
    verdict = f"Open: {', '.join(remaining)}." if remaining else "Every part passed."
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"# {about['name']}{': a brief run' if record['brief'] else ''}", "",
        f"{verdict} Sources `{record['sources'][:12]}`, trainer `{record['trainer'][:12]}`.", "",
        "; ".join([*(f"{key} {value}" for key, value in about.items() if key != "name"), machine["cpu"], versions]) + ".", "",
        "| part | verdict | seconds | date | what was seen |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for part in record["parts"]:
        detail = part["detail"].replace("|", "/").replace("\n", " ")
        lines.append(f"| {part['name']} | {part['verdict']} | {part['seconds']} | {part['date']} | {detail} |")
    repeated = [part for part in record["parts"] if part["earlier"]]
    if repeated:
        lines += ["", "Run more than once; the last counts:", ""]
    for part in repeated:
        before = "; ".join(f"{old['verdict']} on {old['date']}" for old in part["earlier"])
        lines.append(f"- {part['name']}: before that {before}")
    commands = dict.fromkeys(part["command"] for part in record["parts"])
    lines += ["", "```", *commands, "```"]
    for part in record["parts"]:
        if part["facts"].get("targets"):
            lines += ["", "## Targets of speed", "", *speed_targets.table(part["facts"]["targets"])]
        for table in part["facts"].get("tables", []):
            lines += ["", table.rstrip()]
    return "\n".join(lines).rstrip() + "\n"
