"""pytest tests/invariance/test_cuda_sources.py

Some steps of a small GPT trained wholly through the CUDA sources, run on the CPU by fibers (tests/cuda_on_cpu): every line of the
chain and every tensor of the checkpoint as from the CPU backend.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cuda_ops import build
from pipeline.base import chain
from pipeline.base.checkpoint import load, tensor_digest
from pipeline.recipe import load_recipe
from tests.conftest import ROOT, run

STEPS = {
    "fp32": 10,
    "int8x3": 4,
    "int8x1": 4,
}  # in digits a sequence is longer than a block, and a step takes ten times as long
SHORTEST = {
    "batch: {sequences: 32, lanes: 4}": "batch: {sequences: 2, lanes: 1}", "context: 48,": "context: 40,", "layers: 2": "layers: 1",
    " steps: 6": " steps: 1", "warmup_steps: 2": "warmup_steps: 1", "checkpoints: [3]": "checkpoints: []",
}  # fmt: skip
SMALLER = {"batch: {sequences: 32, lanes: 4}": "batch: {sequences: 4, lanes: 2}", "context: 48,": "context: 40,"}


def tiny_with(folder: Path, changes: dict[str, str]) -> Path:
    """The tiny recipe with texts exchanged."""
    text = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module", params=["fp32", "int8x3", "int8x1"])
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With fewer sequences and more steps; in digits, sequences of more than one block."""
    changes = SMALLER | {"numerics: fp32": f"numerics: {request.param}", "steps: 6": f"steps: {STEPS[request.param]}"}
    if request.param != "fp32":
        changes |= {"context: 48,": "context: 140,"}
    return tiny_with(tmp_path_factory.mktemp("recipe"), changes)


def train(tokens: Path, recipe: Path, out: Path, program: tuple[str, str], env: dict[str, str]) -> str:
    """All steps of a recipe; returns what the program said."""
    flags = ["--steps-to", str(load_recipe(recipe).bits.steps), "--micro-batch", "2", "--threads", "2"]
    return run(
        *program, "--recipe", str(recipe), "--tokens", str(tokens), "--out", str(out / "last.safetensors"),
        "--chain", str(out / "chain.tsv"), "--state", str(out / "state"), *flags, env=env,
    )  # fmt: skip


def found(out: Path) -> tuple[list[str], dict[str, str]]:
    """Links of all steps, and the digest of every tensor of the last checkpoint."""
    tensors = load(out / "last.safetensors").tensors
    return [line.link for line in chain.read(out / "chain.tsv")], {n: tensor_digest(t) for n, t in tensors.items()}


def trained(tokens: Path, recipe: Path, out: Path, build: Path, schedule: str) -> tuple[list[str], dict[str, str]]:
    env = {"SAMEBITS_BUILD": str(build), "SAMEBITS_SHIM_SCHEDULE": schedule}
    train(tokens, recipe, out, ("-m", "pipeline.train"), env)
    return found(out)


@pytest.mark.parametrize("schedule", ["random:1"])
def test_steps_have_the_digests_of_the_cpu(
    tiny: dict[str, Path], recipe: Path, tmp_path: Path, shim: Path, schedule: str
) -> None:
    cpu = trained(tiny["tokens"], recipe, tmp_path / "cpu", ROOT / "results" / "build", "")
    cuda = trained(tiny["tokens"], recipe, tmp_path / "cuda", shim, schedule)
    assert len(cpu[0]) == load_recipe(recipe).bits.steps >= 4
    assert cuda == cpu


COUNTED = f"""
import ctypes, os, sys
from pipeline import train
train.main()
library = ctypes.CDLL(os.path.join(os.environ["SAMEBITS_BUILD"], "{build.LIBRARY}"))
for kernel in ("wgmma<", "tile<"):
    print("launches of", kernel, library.samebits_shim_launches(f"matmul_digits_{{kernel}}".encode()))
"""


@pytest.mark.parametrize("major", ["9", "8"])
def test_a_step_takes_the_tiles_of_its_device(tiny: dict[str, Path], tmp_path: Path, shim: Path, major: str) -> None:
    """On compute capability 9.0 those of wgmma and no other, with the bits of the CPU; the control: on 8.0 none of them."""
    recipe = tiny_with(tmp_path, SHORTEST | {"numerics: fp32": "numerics: int8x3"})
    cpu = trained(tiny["tokens"], recipe, tmp_path / "cpu", ROOT / "results" / "build", "")
    env = {"SAMEBITS_BUILD": str(shim), "SAMEBITS_SHIM_MAJOR": major}
    output = train(tiny["tokens"], recipe, tmp_path / "cuda", ("-c", COUNTED), env)
    assert found(tmp_path / "cuda") == cpu
    counts = {kernel: int(count) for kernel, count in re.findall(r"^launches of (\w+)< (\d+)$", output, re.MULTILINE)}
    other, taken = ("tile", "wgmma") if major == "9" else ("wgmma", "tile")
    assert counts == {taken: 3 * (4 + 1), other: 0}  # output and both gradients of four matrices and the lm head
