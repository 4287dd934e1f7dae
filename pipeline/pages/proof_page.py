"""The evidence of a GPU proof: what it ran on, and the page that shows it."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import torch

from pipeline.evidence import speed_targets
from pipeline.records.receipt import machine as host


def machine(device: str) -> dict[str, Any]:
    """What the proof ran on."""
    facts: dict[str, Any] = host()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        driver = "unknown: nvidia-smi is not on PATH"
        if shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            driver = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        facts["gpu"] = {
            "name": properties.name, "capability": f"{properties.major}.{properties.minor}", "memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count, "driver": driver, "cuda": torch.version.cuda,
        }  # fmt: skip
    return facts


def page(evidence: dict[str, Any], tables: list[str]) -> str:
    """The evidence as a readable page: parts, targets, the benchmarks' own tables."""
    about = evidence["machine"].get("gpu") or {"name": evidence["machine"]["cpu"]}
    lines = [
        f"# {about['name']}, {evidence['date']}", "",
        f"`{evidence['command']}`; sources {evidence['sources'][:12]}; {evidence['seconds']:.0f} s. "
        + ", ".join(f"{key} {value}" for key, value in about.items() if key != "name"), "",
        "| part | verdict | seconds | what was seen |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {p['name']} | {p['verdict']} | {p['seconds']} | {p['detail'].replace('|', '/')} |"
        for p in evidence["parts"]
    ]
    if "targets" in evidence["facts"]:
        lines += ["", *speed_targets.table(evidence["facts"]["targets"])]
    return "\n".join([*lines, "", *tables]).rstrip() + "\n"
