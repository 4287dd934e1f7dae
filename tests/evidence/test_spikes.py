"""pytest tests/evidence/test_spikes.py

Outliers by z-score against NumPy; a recipe that skips them keeps one digest over ranks, kills and resumes; recipes that do not are what they were.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.checkpoint import load, tensor_digest
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import Skip, canonical, load_recipe, recipe_id
from pipeline.records.digests import published
from pipeline.spikes import marks, work
from pipeline.training.outliers import IN_A_ROW, WINDOW, Outliers, Skipping
from pipeline.training.trainer import Trainer
from tests.conftest import ROOT, run

RECIPES = sorted(path.stem for path in (ROOT / "config" / "recipes").glob("*.yaml") if published(path.stem))


@pytest.mark.parametrize("name", RECIPES)
def test_a_younger_key_moves_no_published_recipe(name: str) -> None:
    recipe = load_recipe(ROOT / "config" / "recipes" / f"{name}.yaml")
    expected = published(name)["recipe/bits"]
    assert recipe_id(recipe) == expected
    assert "skip" not in canonical(recipe.bits)
    skip = Skip(norm_z=6.0)
    bits = recipe.bits.model_copy(update={"skip": skip})
    assert '"skip":{"norm_z":6.0}' in canonical(bits)
    assert recipe_id(recipe.model_copy(update={"bits": bits})) != expected


def test_scores_agree_with_numpy() -> None:
    values = np.random.default_rng(1).standard_normal(300).astype(np.float32).astype(float).tolist()
    series = Outliers()
    for i, value in enumerate(values):
        z, outlier = series.take(value, None)
        assert not outlier
        if i < WINDOW:
            assert z is None
        else:
            window = np.array(values[i - WINDOW : i])
            assert z == pytest.approx((value - window.mean()) / window.std(), rel=1e-12)
    constant = Outliers()
    for _ in range(WINDOW):
        constant.take(2.0, 1.0)
    assert constant.score(5.0) == 0.0


def test_an_outlier_does_not_enter_the_window_but_the_third_in_a_row_does() -> None:
    series = Outliers()
    for i in range(WINDOW):
        series.take(float(i % 2), 6.0)
    window = list(series.values)
    for number in range(1, IN_A_ROW + 1):
        z, outlier = series.take(100.0, 6.0)
        assert outlier
        assert z == pytest.approx(199)
        assert (series.values == window) == (number < IN_A_ROW)
    assert series.values == [*window[1:], 100.0]
    again = Outliers()
    again.restore(series.state())
    assert (again.values, again.rejected) == (series.values, series.rejected)
    with pytest.raises(UserError, match="outlier window"):
        again.restore(torch.zeros(4))


def test_marks_are_a_function_of_the_chain() -> None:
    rng = np.random.default_rng(2)
    lines = [
        chain.Line(i, 1.0 + 0.01 * rng.standard_normal(), 1e-3, 0.3 + 0.01 * rng.standard_normal(), 0)
        for i in range(1, 201)
    ]
    lines[149] = chain.Line(150, 1.5, 1e-3, 2.0, 0)
    lines[170] = chain.Line(171, 1.0, 1e-3, 2.0, 0)
    assert [(m["step"], sorted(m["z"])) for m in marks(lines, 6.0)] == [(150, ["loss", "norm"]), (171, ["norm"])]


# ---------------------------------------------------------------- a recipe that skips

STEPS = 72


@pytest.fixture(scope="module")
def skipping(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A smaller tiny recipe whose limit is low enough that some steps are skipped."""
    text = tiny["recipe"].read_text()
    for old, new in (
        ("steps: 6", f"steps: {STEPS}"), ("checkpoints: [3]", "checkpoints: []"), ("sequences: 32", "sequences: 8"), ("3.0e-3", "3.0e-2"),
        ("  schedule:", "  skip: {norm_z: 0.3, loss_z: 1.0}\n  schedule:"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("skipping") / "tiny.yaml"
    path.write_text(text)
    return tiny | {"recipe": path}


def trained(setting: dict[str, Path], out: Path, *flags: str) -> str:
    command = [
        "-m", "pipeline.train", "--recipe", str(setting["recipe"]), "--tokens", str(setting["tokens"]), "--steps-to", str(STEPS),
        "--out", str(out / f"step_{STEPS:06d}.safetensors"), "--chain", str(out / f"chain_{STEPS:06d}.tsv"),
        "--state", str(out / "state"), *flags,
    ]  # fmt: skip
    run(*command, env={"OMP_NUM_THREADS": "1"})
    return result(out)


def result(out: Path) -> str:
    tensors = load(out / f"step_{STEPS:06d}.safetensors").tensors
    link = chain.read(out / f"chain_{STEPS:06d}.tsv")[-1].link
    return json.dumps([link, {name: tensor_digest(tensors[name]) for name in sorted(tensors)}])


def test_skipping_has_one_digest_over_ranks_kills_and_resumes(skipping: dict[str, Path], tmp_path: Path) -> None:
    whole = trained(skipping, tmp_path / "whole")
    lines = chain.read(tmp_path / "whole" / f"chain_{STEPS:06d}.tsv")
    skipped = [b.step for a, b in itertools.pairwise(lines) if a.fingerprint == b.fingerprint]
    assert skipped, "the control: some step must be skipped"
    assert min(skipped) > WINDOW
    assert "optimizer.outliers.norm" in whole
    # Killed after a step within the window's life, resumed on two ranks.
    out = tmp_path / "killed"
    code = (
        "import os, sys\nfrom pipeline import train\nfrom pipeline.training.segment import Segment\nsave = Segment.save_rolling\n"
        f"def killed(self):\n  save(self)\n  if self.trainer.step == {skipped[0]}: os.kill(os.getpid(), 9)\n"
        "Segment.save_rolling = killed\n"
        f"sys.argv[1:] = ['--recipe', {str(skipping['recipe'])!r}, '--tokens', {str(skipping['tokens'])!r}, '--steps-to', '{STEPS}', "
        f"'--out', {str(out / f'step_{STEPS:06d}.safetensors')!r}, '--chain', {str(out / f'chain_{STEPS:06d}.tsv')!r}, "
        f"'--state', {str(out / 'state')!r}, '--rolling-steps', '1']\ntrain.main()\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert done.returncode == -9
    assert trained(skipping, out, "--ranks", "2", "--micro-batch", "1") == whole
    # The control: a resume that forgets the window, as llm.c's does, gives other bits.
    recipe = load_recipe(skipping["recipe"])
    trainer = Trainer(recipe, Execution(), Ranks(), skipping["tokens"])
    trainer.initialise()
    while trainer.step < WINDOW:
        trainer.train_step()
    trainer.skipping = Skipping(recipe.bits.skip)
    while trainer.step < STEPS:
        line, _ = trainer.train_step()
    assert line.fingerprint != lines[-1].fingerprint


def test_the_page_of_a_spike(skipping: dict[str, Path], tmp_path: Path) -> None:
    """Samples, parameters and lanes of the largest spike, from a run without any skipping."""
    recipe_path = tmp_path / "plain.yaml"
    recipe_path.write_text(skipping["recipe"].read_text().replace("  skip: {norm_z: 0.3, loss_z: 1.0}\n", ""))
    recipe = load_recipe(recipe_path)
    trainer = Trainer(recipe, Execution(), Ranks(), skipping["tokens"])
    trainer.initialise()
    link, lines = chain.START, []
    for _ in range(STEPS):
        line = trainer.train_step()[0].linked(link)
        trainer.link = link = line.link
        lines.append(line)
        if line.step == WINDOW:
            trainer.save(tmp_path / f"step_{WINDOW:06d}.safetensors")
    chain.write(tmp_path / f"chain_{STEPS:06d}.tsv", lines)
    flags = ["--recipe", str(recipe_path), "--tokens", str(skipping["tokens"]), "--run", str(tmp_path)]
    assert "spikes" in run("-m", "pipeline.spikes", *flags, "--z", "0.3", "--replays", "1")
    found = json.loads((tmp_path / "spikes.json").read_text())["spikes"]
    assert found
    (looked,) = [spike for spike in found if "parameters" in spike]
    assert max(looked["z"].values()) == max(z for spike in found for z in spike["z"].values())
    norm = float(np.sqrt(sum(p["norm"] ** 2 for p in looked["parameters"])))
    assert norm == pytest.approx(looked["norm"], rel=1e-5)
    loss = np.mean([sample["loss"] for sample in looked["samples"]])
    assert loss == pytest.approx(looked["loss"], rel=1e-5)
    assert len(looked["lanes"]) == recipe.bits.batch.lanes
    # What it would take: from the checkpoint if it lies before both steps, else from the initial weights.
    assert recipe.bits.model.kind == "gpt"
    each = 6.0 * recipe.bits.model.parameters * 8 * recipe.bits.model.context
    assert work(recipe, tmp_path, STEPS) == each * (STEPS - WINDOW)
    assert work(recipe, tmp_path, WINDOW + 1) == each * (WINDOW + 1)
    first = (tmp_path / "spikes.json").read_bytes()
    run("-m", "pipeline.spikes", *flags, "--z", "0.3", "--replays", "1")
    assert (tmp_path / "spikes.json").read_bytes() == first
    least = min(work(recipe, tmp_path, spike["step"]) for spike in found)
    for limit, looked_at in ((least, 1), (0.9 * least, 0)):
        run("-m", "pipeline.spikes", *flags, "--z", "0.3", "--replays", "1", "--most-flops", str(limit))
        marked = json.loads((tmp_path / "spikes.json").read_text())["spikes"]
        assert len(marked) == len(found)
        assert [work(recipe, tmp_path, s["step"]) for s in marked if "parameters" in s] == [least] * looked_at
