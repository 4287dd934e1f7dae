"""A run of the tiny recipe by its command, and what it came to."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.base import chain
from pipeline.base.checkpoint import load, tensor_digest

STEPS = 6


def command(tiny: dict[str, Path], out: Path, *flags: str, steps: int = STEPS) -> list[str]:
    return [
        "-m", "pipeline.train", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--steps-to", str(steps),
        "--out", str(out / f"step_{steps:06d}.safetensors"), "--chain", str(out / f"chain_{steps:06d}.tsv"),
        "--state", str(out / "state"), *flags,
    ]  # fmt: skip


def result(out: Path, steps: int = STEPS) -> str:
    """Link of the last step and digest of every tensor."""
    lines = chain.read(out / f"chain_{steps:06d}.tsv")
    assert chain.check(lines, chain.START, out) == lines[-1].link
    tensors = load(out / f"step_{steps:06d}.safetensors").tensors
    return json.dumps([lines[-1].link, {name: tensor_digest(tensors[name]) for name in sorted(tensors)}])
