"""pytest tests/invariance/test_cuda_sources.py

Some steps of a small GPT trained wholly through the CUDA sources, run on the CPU by fibers (tests/cuda_on_cpu): every line of the
chain and every tensor of the checkpoint as from the CPU backend.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base import chain
from pipeline.base.checkpoint import load, tensor_digest
from pipeline.recipe import load_recipe
from tests.conftest import ROOT, run

STEPS = {
    "fp32": 10,
    "int8x3": 4,
    "int8x1": 4,
}  # in digits a sequence is longer than a block, and a step takes ten times as long
SMALLER = {"batch: {sequences: 32, lanes: 4}": "batch: {sequences: 4, lanes: 2}", "context: 48,": "context: 40,"}


@pytest.fixture(scope="module", params=["fp32", "int8x3", "int8x1"])
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe with fewer sequences and more steps; in digits, sequences of more than one block."""
    text = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text()
    smaller = SMALLER | {"numerics: fp32": f"numerics: {request.param}", "steps: 6": f"steps: {STEPS[request.param]}"}
    if request.param != "fp32":
        smaller |= {"context: 48,": "context: 140,"}
    for old, new in smaller.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(text)
    return path


def trained(tokens: Path, recipe: Path, out: Path, build: Path, schedule: str) -> tuple[list[str], dict[str, str]]:
    """Links of all steps, and the digest of every tensor of the last checkpoint."""
    flags = ["--steps-to", str(load_recipe(recipe).bits.steps), "--micro-batch", "2", "--threads", "2"]
    run(
        "-m", "pipeline.train", "--recipe", str(recipe), "--tokens", str(tokens), "--out", str(out / "last.safetensors"),
        "--chain", str(out / "chain.tsv"), "--state", str(out / "state"), *flags,
        env={"SAMEBITS_BUILD": str(build), "SAMEBITS_SHIM_SCHEDULE": schedule},
    )  # fmt: skip
    tensors = load(out / "last.safetensors").tensors
    return [line.link for line in chain.read(out / "chain.tsv")], {n: tensor_digest(t) for n, t in tensors.items()}


@pytest.mark.parametrize("schedule", ["random:1"])
def test_steps_have_the_digests_of_the_cpu(
    tiny: dict[str, Path], recipe: Path, tmp_path: Path, shim: Path, schedule: str
) -> None:
    cpu = trained(tiny["tokens"], recipe, tmp_path / "cpu", ROOT / "results" / "build", "")
    cuda = trained(tiny["tokens"], recipe, tmp_path / "cuda", shim, schedule)
    assert len(cpu[0]) == load_recipe(recipe).bits.steps >= 4
    assert cuda == cpu
