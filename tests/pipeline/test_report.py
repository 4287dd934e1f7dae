"""pytest tests/pipeline/test_report.py

The page of a run, with and without questions: complete, and loading nothing from anywhere.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import run


@pytest.mark.parametrize("questions", [True, False])
def test_the_page_is_whole_and_self_contained(tiny: dict[str, Path], tmp_path: Path, questions: bool) -> None:
    text = tiny["recipe"].read_text().replace("checkpoints: [3]", "checkpoints: []")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(text if questions else text.replace(", {kind: choices}", ""))
    shared = ["--recipe", str(recipe), "--tokens", str(tiny["tokens"])]
    checkpoint = str(tmp_path / "step_000006.safetensors")
    train = [
        "--steps-to",
        "6",
        "--out",
        checkpoint,
        "--chain",
        str(tmp_path / "chain_000006.tsv"),
        "--state",
        str(tmp_path / "s"),
    ]
    run("-m", "pipeline.train", *shared, *train)
    run("-m", "pipeline.evaluate", *shared, "--checkpoint", checkpoint, "--out", str(tmp_path / "eval_000006.json"))
    run("-m", "pipeline.sample", *shared, "--checkpoint", checkpoint, "--out", str(tmp_path / "samples.json"))
    (tmp_path / "digests.json").write_text(json.dumps({"train/chain_000006.tsv": "ab" * 32}))
    run("-m", "pipeline.report", *shared, "--run", str(tmp_path), "--out", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "entropy floor" in page
    assert "ab" * 32 in page
    assert ("Multiple choice" in page) == questions
    assert "tokens/s" in page
    assert "train 6" in page
    loads = re.findall(r"""(?:src|href)\s*=\s*["']?(?!#)([^"'\s>]+)""", page)
    assert not [target for target in loads if not target.startswith("#")]
    assert "<script" not in page
