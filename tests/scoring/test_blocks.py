"""pytest tests/scoring/test_blocks.py

Blocks with an outlier are counted where one is planted, per product, and only in what products read; evaluation writes
the share into its receipt and changes no score by it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pipeline.scoring.blocks import OutlierBlocks
from tests.conftest import run


def test_planted_outliers_are_counted() -> None:
    seen = OutlierBlocks()
    x = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(1))  # blocks of 128, 128 and 44
    x[0, 3, 7], x[1, 4, 299], x[1, 4, 298] = 100.0, -100.0, 3.0
    seen("h.0.ln_1", x)
    seen("h.11.mlp.gelu", torch.zeros(1, 4, 128))
    seen("h.0.attn.qkv", 1e6 * x)  # an output
    assert seen.facts() == {"blocks": 34, "outliers": 2 / 34, "of": {"qkv": 2 / 30, "mlp.proj": 0.0}}


def test_what_is_no_outlier_is_none() -> None:
    """A normal block; one where two values share what is large; and one value exactly 16 times the others."""
    seen = OutlierBlocks()
    two, edge = torch.ones(1, 128), torch.ones(1, 128)
    two[0, :2], edge[0, 5] = 1000.0, 16.0
    for x in (torch.randn(1, 128), two, edge):
        seen("ln_f", x)
    assert seen.facts() == {"blocks": 3, "outliers": 0.0, "of": {"lm head": 0.0}}


def test_evaluation_reports_the_share(tiny: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "digits.yaml"
    recipe.write_text(
        tiny["recipe"]
        .read_text()
        .replace("name: tiny", "name: tiny_digits")
        .replace("numerics: fp32", "numerics: int8x1")
    )
    assert "int8x1" in recipe.read_text()
    common = ["--recipe", str(recipe), "--tokens", str(tiny["tokens"])]
    checkpoint, out = str(tmp_path / "step_000003.safetensors"), str(tmp_path / "eval_000003.json")
    run("-m", "pipeline.train", *common, "--steps-to", "3", "--out", checkpoint,
        "--chain", str(tmp_path / "chain.tsv"), "--state", str(tmp_path / "state"))  # fmt: skip
    run("-m", "pipeline.evaluate", *common, "--checkpoint", checkpoint, "--out", out)
    facts = json.loads((tmp_path / "receipts" / "evaluate_000003.json").read_text())["digits"]
    assert facts["blocks"] > 100
    assert set(facts["of"]) == {"qkv", "attn.proj", "mlp.fc", "mlp.proj", "lm head"}
    assert "digits" not in json.loads(Path(out).read_text())
