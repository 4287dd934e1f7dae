"""pytest tests/training/test_gpt2_124m.py

The true GPT-2 124M: the first published step of gpt2_124m_steps, on two ranks. All three steps, on 1, 2 and 4 ranks, were
compared by hand (docs/recipes/gpt2.md); this keeps them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.base import chain
from tests.conftest import ROOT, run

RECIPE = ROOT / "config" / "recipes" / "gpt2_124m_steps.yaml"


@pytest.mark.skipif(
    "SAMEBITS_MIRROR" not in os.environ, reason="needs tinyshakespeare and GPT-2's vocabulary: SAMEBITS_MIRROR"
)
def test_the_first_step_of_gpt2_124m_on_two_ranks_is_the_published_one(tmp_path: Path) -> None:
    given = ["--recipe", str(RECIPE)]
    data, tokens, vocabulary = (tmp_path / name for name in ("data", "tokens", "gpt2"))
    run("-m", "pipeline.download", *given, "--out", str(data))
    run("-m", "pipeline.download", "--pins", str(ROOT / "config" / "data" / "gpt2_bpe.yaml"), "--out", str(vocabulary))
    folders = ["--data", str(data), "--out", str(tokens), "--gpt2", str(vocabulary)]
    run("-m", "pipeline.prepare_text", *given, *folders)
    steps, out = tmp_path / "chain.tsv", tmp_path / "step.safetensors"
    where = ["--tokens", str(tokens), "--state", str(tmp_path / "state"), "--out", str(out), "--chain", str(steps)]
    run("-m", "pipeline.train", *given, *where, "--steps-to", "1", "--ranks", "2", "--micro-batch", "1")
    out.unlink()
    assert chain.read(steps) == chain.read(ROOT / "config" / "expected" / "chains" / "gpt2_124m_steps.tsv")[:1]
