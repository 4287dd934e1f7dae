"""pytest tests/workflow/test_screen.py

What a user sees of the workflow: a line per stage, mistakes named before the graph, the end of a stop, a lock and the way
out, a path with spaces.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cuda_ops.errors import named
from tests.conftest import ROOT
from tests.workflow.running import EVERYTHING, edited, snakemake, would_run

COMMAND = (
    'RuleException:\nCalledProcessError in file "train.smk", line 46:\nCommand \'set -euo pipefail;  python -m '
    "pipeline.train --recipe r.yaml --log results/logs/tiny/train_000003.log' "
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            COMMAND + "returned non-zero exit status 2.",
            "train ended with exit code 2; what it said is above and in results/",
        ),
        (
            COMMAND + "died with <Signals.SIGKILL: 9>.",
            "train was killed; what it said is above and in results/logs/tiny/",
        ),
        (COMMAND + "returned non-zero exit status 143.", ""),  # it has said how to go on
        ("Select jobs to execute...", ""),
        ("WorkflowError:\nAt least one job did not complete successfully.", ""),
        (
            'WorkflowError in file "a b/common.smk", line 29:\nan error\nof two lines\n  File "x", line 1',
            "error: an error\nof two",
        ),
        (
            "LockException:\nError: Directory cannot be locked.",
            "error: another snakemake runs here, or one was killed.",
        ),
        ("Nothing to be done (all requested files are present).", "Nothing to be done"),
        ("MissingOutputException in rule train:\nJob 2 completed", "MissingOutputException in rule train"),
    ],
    ids=["failed", "killed", "stopped", "chatter", "at the end", "refused", "locked", "nothing", "other"],
)
def test_what_stands_on_the_screen(text: str, shown: str) -> None:
    found = screen().plain(text)
    assert found.startswith(shown)
    assert bool(found) == bool(shown)


def test_a_misspelt_target_is_one_line_with_those_there_are(project: Path) -> None:
    """Whatever is asked for that no rule makes; the control: the default target of the root, and a file."""
    output = snakemake(project, "-n", target="reproductoin", code=1)
    assert output.splitlines()[-1] == (
        "error: reproductoin: no such target, and no rule makes such a file; "
        "targets are all, overview, reproduction, vocabulary; did you mean reproduction?"
    )
    output = snakemake(project, "-n", target="results/runs/tyny/report.html", code=1)
    assert output.splitlines()[-1].startswith("error: results/runs/tyny/report.html: no such target, and no rule makes")
    assert "Nothing to be done" in snakemake(project, "-n", target="results/runs/tiny/report.html")


def test_flags_are_checked_before_the_ops_are_compiled(own: Path) -> None:
    """On a fresh clone the graph is what compiles them: no check asks for them, and each that can be made is."""
    shutil.rmtree(own / "results")
    flags = ("-n", "--set-resources", "train:ranks=4", "train:micro_batch=2")
    assert would_run(own, *flags) == EVERYTHING
    with edited(own / "config" / "recipes" / "tiny.yaml", ("channels: 32", "channels: 514")):  # of 2 heads
        assert "heads of 257" in snakemake(own, *flags[:2], "evaluate:device=cuda", code=1)


def screen() -> Any:
    spec = importlib.util.spec_from_file_location("screen", ROOT / "workflow" / "screen.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_advice_names_the_recipe_that_was_given() -> None:
    words = "python -m pipeline.download --recipe … makes it again; snakemake --config recipe=…"
    assert named(words, ["train", "--steps-to", "3"]) == words
    assert named(words, ["train", "--recipe", "my own.yaml"]) == (
        "python -m pipeline.download --recipe 'my own.yaml' makes it again; snakemake --config recipe='my own.yaml'"
    )


def test_the_screen_has_a_line_per_stage_and_the_end(project: Path) -> None:
    """Plain `snakemake` says what `make reproduction` says; an unpublished run has no table of itself."""
    makefile = (project / "Makefile").read_text()
    assert "@snakemake --cores $(CORES) --config recipe=$(RECIPE) -- reproduction\n" in makefile
    lines = (project / "first.txt").read_text().splitlines()
    assert lines[0].startswith("Using workflow specific profile profiles/default")
    assert lines[-1].startswith("Elapsed time")
    lines = [line for line in lines[1:-1] if not line.startswith("step ")]  # training's progress
    run = "results/runs/tiny/"
    beginnings = [
        "results/data/tiny-", "results/data/tiny-", f"{run}step_000003.safetensors  file sha256",
        f"{run}step_000006.safetensors  file sha256", f"{run}eval_000003.json: ", f"{run}eval_000006.json: ",
        f"{run}samples.json: 2 samples", f"{run}spikes.json: 0 spikes", f"{run}digests.json: 12 digests",
        "tiny: 12 digests, none published yet", f"{run}report.html: ",
    ]  # fmt: skip
    assert len(lines) == len(beginnings) + 1, lines
    for beginning in beginnings:
        assert any(line.startswith(beginning) for line in lines), beginning
    loss = json.loads((project / run / "eval_000006.json").read_text())["validation"]["nats_per_token"]
    assert re.fullmatch(rf"tiny: {loss:.4f} nats/token, .* acc .*; page {run}report.html", lines[-1])
    logs = {path.name: path.read_text() for path in (project / "results" / "logs" / "tiny").iterdir()}
    assert all(any(line in log for log in logs.values()) for line in lines if line.startswith(run))
    assert any("rule train:" in log.read_text() for log in (project / ".snakemake" / "log").glob("*.log"))


@pytest.mark.parametrize("who", ["group", "snakemake", "terminal", "killed"])
def test_a_stop_saves_and_is_one_line(project: Path, who: str) -> None:
    """SIGTERM to every process, as Slurm and a CI's cancel send it: nobody is left who could write the log but the
    stage. Or to Snakemake alone, as `docker stop` does. Or SIGHUP to every process, as a terminal that closes. Or kill -9
    of Snakemake alone: then a lock is left, what is said of it works, and no orphan trains on.
    """
    recipe = (project / "config" / "recipes" / "tiny.yaml").read_text()
    path = project / "config" / "recipes" / f"long-{who}.yaml"
    path.write_text(recipe.replace("name: tiny\n", f"name: long-{who}\n", 1).replace("steps: 6", "steps: 999000"))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "2",
        "--config",
        f"recipe=long-{who}",
        "--",
        "reproduction",
    ]
    child = subprocess.Popen(
        [*command[:-2], "--set-resources", "train:rolling=100000", "--", "reproduction"],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={k: v for k, v in os.environ.items() if k not in ("SAMEBITS_BUILD", "PYTHONPATH")},
    )  # fmt: skip
    number = {"terminal": signal.SIGHUP, "killed": signal.SIGKILL}.get(who, signal.SIGTERM)
    try:
        assert child.stdout
        for line in child.stdout:
            if line.startswith("step 3/"):  # the first segment's end
                break
        said = next(line for line in child.stdout if line.startswith("step "))
        (os.killpg if who in ("group", "terminal") else os.kill)(child.pid, number)
        rest = child.stdout.read()  # to the end of the last process that holds it: the stage
        assert child.wait() == (-number if who == "killed" else 1)
        found = re.search(r"^stopped after step (\d+); the same command goes on from there$", rest, re.MULTILINE)
        assert found, said + rest
        assert "Exception" not in rest
        assert "Traceback" not in rest
        log = (project / "results" / "logs" / f"long-{who}" / "train_999000.log").read_text()
        assert found[0] in log
        kept = [path.name for path in (project / "results" / "state").glob("*/step_*.safetensors")]
        assert f"step_{int(found[1]):06d}.safetensors" in kept
        assert any((project / ".snakemake" / "locks").glob("*")) == (who == "killed")
        if who == "killed":
            follow_the_advice(project, snakemake(project, recipe=f"long-{who}", code=1))
            assert "rule train" in snakemake(project, "-n", recipe=f"long-{who}")
    finally:
        child.kill()
        path.unlink()


@pytest.mark.parametrize(
    ("flags", "options", "said"),
    [
        ((), {"recipe": "nothing"}, "no such recipe; see config/recipes/"),
        ((), {"config": ("recepi=x",)}, "--config recepi: unknown key; known are recipe, data; did you mean recipe?"),
        ((), {"config": ("data=missing.txt",)}, "data=missing.txt: no such file"),
        ((), {"recipe": "tiny,fables", "config": ("data=README.md",)}, "with one recipe, not with 2: tiny, fables"),
        (("--set-resources", "train:ranks=3"), {}, "--ranks 3 does not divide the recipe's 4 lanes"),
        (("--set-resources", "train:rank=2"), {}, "--set-resources train:rank: did you mean ranks?"),
        (("--set-resources", "trian:ranks=2"), {}, "--set-resources trian: there is no such rule; did you mean train?"),
        (("--set-resources", "train:micro_batch=x"), {}, "a value is of the wrong type"),
        (
            ("--workflow-profile", "config/execution/gpu2"),
            {},
            "--workflow-profile config/execution/gpu2: there is no such profile; there are config/execution/gpu1,",
        ),
        ((), {"config": (f"data={'x' * 300}.txt",)}, "a name is too long for this file system"),
    ],
    ids=["recipe", "key", "data", "recipes", "ranks", "resource", "rule", "type", "profile", "name"],
)
def test_mistakes_are_named_before_the_graph(
    project: Path, flags: tuple[str, ...], options: dict[str, Any], said: str
) -> None:
    output = snakemake(project, "-n", *flags, code=1, **options)
    assert said in output
    assert "Building DAG" not in output
    assert "--workflow-profile" in flags or [line[:7] for line in output.splitlines()[-1:]] == ["error: "], output


def test_a_recipe_that_shares_tokens_is_held_against_them_before_the_graph(project: Path) -> None:
    """Its prompts, context and questions: else they would fail after training."""
    recipe = (project / "config" / "recipes" / "tiny.yaml").read_text().replace("name: tiny\n", "name: other\n", 1)
    path = project / "config" / "recipes" / "other.yaml"
    try:
        for edit, said in (
            (
                ('["Once"]', json.dumps(["Once", "1 2 3 4 " * 20])),
                "artifacts.samples.prompts[1] has 161 tokens, bits.model.context",
            ),
            (
                ("context: 48", "context: 7000"),
                "bits.model.context 7000 is too long: the validation split has 6174 tokens",
            ),
            (("context: 48", "context: 2"), "bits.model.context"),
        ):
            assert edit[0] in recipe
            path.write_text(recipe.replace(*edit))
            output = snakemake(project, "-n", recipe="other", code=1)
            assert said in output
            assert "Building DAG" not in output
    finally:
        path.unlink()


def follow_the_advice(project: Path, output: str) -> None:
    """What the message of a lock names ends it."""
    advice = re.search(r"If none runs: (\S+) -m snakemake --unlock, and then the same command again", output)
    assert advice, output
    done = subprocess.run([advice[1], "-m", "snakemake", "--unlock"], cwd=project, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_killed_snakemake_leaves_a_lock_and_the_way_out(project: Path) -> None:
    """What the message names works, and so do the flags that look at a run, none of them with --cores."""
    lock = project / ".snakemake" / "locks"
    lock.mkdir(exist_ok=True)
    (lock / "0.output.lock").write_text("results/runs/tiny/report.html\n")
    output = snakemake(project, "--forcerun", "report", code=1)
    for flags in (("--summary",), ("--rulegraph", "mermaid-js"), ("--report", "page.html")):
        snakemake(project, *flags, cores=())
    follow_the_advice(project, output)
    assert "Nothing to be done" in snakemake(project)


def test_a_checkout_in_a_path_with_spaces(project: Path, tmp_path: Path) -> None:
    """Every rule quotes its paths: the last stages run there, and the first ones are planned."""
    there = tmp_path / "my own" / "the project"
    there.parent.mkdir()
    shutil.copytree(project, there, symlinks=True)
    output = snakemake(there, "--forcerun", "digest", "sample")
    assert "tiny: 12 digests, none published yet" in output
    shutil.copy(there / "config" / "recipes" / "tiny.yaml", there / "my recipe.yaml")
    assert would_run(there, recipe="my recipe.yaml") == set()
