"""pytest tests/workflow/test_workflow.py

The real Snakemake on a copy of the project with a tiny recipe: what runs, what does not run again, and what an edit reruns.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.recipe import load_recipe
from tests.conftest import ROOT

EVERYTHING = {
    "download",
    "prepare_text",
    "compile",
    "train",
    "evaluate",
    "sample",
    "digest",
    "verify",
    "spikes",
    "report",
}
AFTER_TRAINING = EVERYTHING - {"download", "prepare_text", "compile"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose tiny recipe has been run once."""
    copy = tmp_path_factory.mktemp("copy") / "project"
    ignore = shutil.ignore_patterns(".venv", "results", ".git", ".snakemake", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, copy, ignore=ignore)
    shutil.copy(copy / "tests" / "recipes" / "tiny.yaml", copy / "config" / "recipes" / "tiny.yaml")
    output = snakemake(copy)
    assert "tiny: 12 digests, none published yet" in output
    return copy


def snakemake(project: Path, *flags: str, recipe: str = "tiny", code: int = 0, config: tuple[str, ...] = ()) -> str:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *flags, "--config", f"recipe={recipe}", *config]
    env = {k: v for k, v in os.environ.items() if k not in ("SAMEBITS_BUILD", "PYTHONPATH")}
    done = subprocess.run(
        [*command, "--", "reproduction"], cwd=project, capture_output=True, text=True, env=env, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == code, output[-4000:]
    return output


def would_run(project: Path, *flags: str, **options: Any) -> set[str]:
    output = snakemake(project, "-n", *flags, **options)
    rules = set(re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE))
    assert rules or "Nothing to be done" in output
    return rules - {"reproduction"}


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(text)


def test_a_second_run_does_nothing(project: Path) -> None:
    assert would_run(project) == set()
    sums = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"],
        cwd=project / "results" / "runs" / "tiny",
        capture_output=True,
        text=True,
        check=False,
    )
    assert sums.returncode == 0, sums.stdout + sums.stderr
    assert sums.stdout.count("OK") == 8


def test_execution_reruns_nothing(project: Path) -> None:
    flags = ["--set-resources", "train:ranks=2", "train:micro_batch=1", "train:recompute=1"]
    assert would_run(project, *flags) == set()
    assert would_run(project, "--set-threads", "train=1") == set()
    profile = ["--workflow-profile", "config/execution/two_ranks"]
    assert would_run(project, *profile) == set()
    assert "ranks=2" in snakemake(project, "-n", *profile, "--forcerun", "train")
    assert (
        would_run(project, "--set-resources", "train:device=cuda", "evaluate:device=cuda", "sample:device=cuda")
        == set()
    )
    gpu = ["--workflow-profile", "config/execution/gpu1"]
    assert would_run(project, *gpu) == set()
    assert "device=cuda" in snakemake(project, "-n", *gpu, "--forcerun", "train")


def test_profiles_name_rules_that_exist_and_ranks_that_a_recipe_has() -> None:
    rules = {
        name
        for path in (ROOT / "workflow" / "rules").glob("*.smk")
        for name in re.findall(r"^rule (\w+):", path.read_text(), re.M)
    }
    shipped = {load_recipe(path).bits.batch.lanes for path in (ROOT / "config" / "recipes").glob("*.yaml")}
    profiles = sorted((ROOT / "config" / "execution").glob("*/profile.yaml"))
    assert len(profiles) >= 4
    for path in profiles:
        content = yaml.safe_load(path.read_text())
        assert set(content["set-resources"]) <= rules, path
        ranks = content["set-resources"]["train"]["ranks"]
        assert (
            any(lanes % ranks == 0 for lanes in shipped) or f"lanes are a multiple of {ranks};" in path.read_text()
        ), path
        taken = [resources.get("gpu", 0) for resources in content["set-resources"].values()]
        assert max(taken) <= content.get("resources", {}).get("gpu", 0), path


def test_comments_rerun_nothing(project: Path) -> None:
    with (
        edited(project / "cuda_ops" / "cpu" / "gelu.cpp", "// GELU", "// A comment.\n// GELU"),
        edited(project / "pipeline" / "trainer.py", '"""One training step', '"""Another docstring: one training step'),
        edited(project / "config" / "recipes" / "tiny.yaml", "name: tiny", "# a comment\nname: tiny"),
    ):
        assert would_run(project) == set()


def test_edits_rerun_exactly_what_depends(project: Path) -> None:
    recipe = project / "config" / "recipes" / "tiny.yaml"
    with edited(project / "cuda_ops" / "numerics" / "exp_log.h", "12582912.0f", "12582913.0f"):
        assert would_run(project) == AFTER_TRAINING | {"compile"}
    with edited(project / "pipeline" / "schedule.py", "0.5 * (1.0 + cos_pi(ratio))", "0.25 * (1.0 + cos_pi(ratio))"):
        assert would_run(project) == AFTER_TRAINING
    with edited(recipe, "seed: 5", "seed: 6"):
        assert would_run(project) == AFTER_TRAINING
        assert "Params have changed" in snakemake(project, "-n")
    with edited(recipe, "stories: 300", "stories: 301"):
        assert would_run(project) == EVERYTHING - {"compile"}
    with edited(recipe, "temperature: 1.0", "temperature: 0.5"):
        assert would_run(project) == {"sample", "digest", "verify", "report"}
    with edited(project / "pipeline" / "charts.py", '"#0072b2"', '"#0072b3"'):
        assert would_run(project) == {"report"}
    assert would_run(project, "--forcerun", "sample") == {"sample", "digest", "verify", "report"}
    assert would_run(project) == set()


def test_a_published_digest_that_differs_fails_and_names_the_first(project: Path) -> None:
    expected = project / "config" / "expected" / "tiny.json"
    run = [sys.executable, "-m", "pipeline.bless", "--recipe", "config/recipes/tiny.yaml"]
    try:
        assert (
            "12 digests, 12 changed"
            in subprocess.run(run, cwd=project, capture_output=True, text=True, check=True).stdout
        )
        lines = (project / "config" / "expected" / "chains" / "tiny.tsv").read_text().splitlines()
        runs = [(project / "results" / "runs" / "tiny" / f"chain_{n:06d}.tsv").read_text().splitlines() for n in (3, 6)]
        assert lines == runs[0] + runs[1][1:]
        assert "tiny: all 12 digests equal the published ones" in snakemake(project)
        text = expected.read_text()
        key = re.search(r'"train/chain_000006.tsv": "(\w)', text)
        assert key
        expected.write_text(text[: key.start(1)] + ("0" if key[1] != "0" else "1") + text[key.end(1) :])
        output = snakemake(project, code=1)
        assert (
            "1 of 12 digests do not equal the published ones; the first is train/chain_000006.tsv (DIFFERS)" in output
        )
        assert (project / "results" / "runs" / "tiny" / "step_000006.safetensors").exists()
    finally:
        expected.unlink()
        (expected.parent / "chains" / "tiny.tsv").unlink()
    assert "verify" in would_run(project)
    snakemake(project)


def test_mistakes_are_named(project: Path) -> None:
    assert "bits.sed" in _bad(project, "seed: 5", "sed: 5")
    assert "no such recipe; see config/recipes/" in snakemake(project, recipe="nothing", code=1)
    assert "'recepi' was unexpected" in snakemake(project, config=("recepi=x",), code=1)
    assert "data=missing.txt: no such file" in snakemake(project, config=("data=missing.txt",), code=1)


def _bad(project: Path, old: str, new: str) -> str:
    with edited(project / "config" / "recipes" / "tiny.yaml", old, new):
        return snakemake(project, code=1)


def test_a_text_of_ones_own(project: Path) -> None:
    """The recipe over another text: its own name, nothing published, and no failure."""
    from pipeline.base.philox import Stream
    from pipeline.data.fables import Teller

    teller = Teller(99, Stream.CORPUS)
    (project / "My Own.txt").write_text("".join(teller.story(i).text for i in range(150)))
    output = snakemake(project, config=("data=My Own.txt",))
    (name,) = re.findall(r"(tiny-my_own-[0-9a-f]{8}): 12 digests, none published yet", output)
    assert (project / "results" / "runs" / name / "report.html").exists()
    assert would_run(project, config=("data=My Own.txt",)) == set()
    assert would_run(project) == set()
