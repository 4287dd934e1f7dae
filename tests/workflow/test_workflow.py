"""pytest tests/workflow/test_workflow.py

The real Snakemake on a copy of the project with a tiny recipe: what runs, what does not run again, and what an edit
reruns.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import yaml

from pipeline.base.files import sha256_of
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import chain_name, checkpoint_name
from tests.conftest import ROOT
from tests.data import fineweb
from tests.forks import forked
from tests.workflow.lint import findings
from tests.workflow.running import EVERYTHING, FROM_SAMPLES, FROM_TRAINING, LOUD, edited, rules_of, snakemake, would_run

# A training that is asked to stop within a step, and does after the next.
STOPPED = """
import os, signal
from pipeline import train
from pipeline.training.trainer import Trainer
step = Trainer.train_step
def stopping(self, flags=0):
    if self.step + 1 == {step}:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, flags)
Trainer.train_step = stopping
raise SystemExit(train.main())
"""


def test_a_second_run_does_nothing(project: Path) -> None:
    assert "Nothing to be done" in snakemake(project)
    sums = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"],
        cwd=project / "results" / "runs" / "tiny",
        capture_output=True,
        text=True,
        check=False,
    )
    assert sums.returncode == 0, sums.stdout + sums.stderr
    assert sums.stdout.count("OK") == 8


def test_a_net_over_images_goes_the_whole_road(project: Path) -> None:
    """From the generator to the page and the verdict, by its own rules; then there is nothing to do."""
    path = project / "config" / "recipes" / "patterns.yaml"
    text = (project / "tests" / "recipes" / "patterns.yaml").read_text().replace("training: 3000", "training: 300")
    path.write_text(text.replace("checkpoints: [30]", "checkpoints: []").replace("steps: 60", "steps: 20"))
    try:
        output = snakemake(project, *LOUD, recipe="patterns")
        images = {"download_images", "prepare_images"}
        assert rules_of(output) == images | (FROM_TRAINING - {"sample"})
        assert "patterns: 7 digests, none published yet" in output
        run = project / "results" / "runs" / "patterns"
        found = json.loads((run / "eval_000020.json").read_text())["accuracy"]
        assert found["images"] == 500
        assert found["share"] > 1 / 8  # better than chance: it has learnt
        page = (run / "report.html").read_text()
        assert "<h2>Accuracy</h2>" in page
        assert f"{100 * found['share']:.1f}%" in page
        definition = json.loads((run / "provenance.json").read_text())["predicate"]["buildDefinition"]
        named = {item["name"] for item in definition["resolvedDependencies"]}
        assert {"download/images.bin", "prepare_images/train_000000.bin", "prepare_images/val_000000.bin"} <= named
        assert would_run(project, recipe="patterns") == set()
        assert would_run(project) == set()
    finally:
        path.unlink()


def test_pinned_files_go_the_whole_road_into_llm_c_shards(project: Path) -> None:
    """A FineWeb-like corpus under GPT-2's tokens: one job a file, shards, training, page and verdict; then nothing to do."""
    folder, path = project / "pages", project / "config" / "recipes" / "tiny_shards.yaml"
    fineweb.write_parquet(folder, fineweb.texts(40, mean=60), 3, 5)
    fineweb.recipe_over(folder, path, 6000, 3)
    try:
        output = snakemake(project, *LOUD, recipe="tiny_shards")
        assert rules_of(output) == {"fetch", "download_pinned", "vocabulary", "prepare_text"} | FROM_TRAINING
        assert re.search(r"^fetch +3$", output, re.M)
        assert "tiny_shards: 13 digests, none published yet" in output
        tokens = next((project / "results" / "data").glob("tiny_shards-*/gpt2-*"))
        about = json.loads((tokens / "tokens.json").read_text())
        assert about["train"]["documents"] + about["validation"]["documents"] == 40
        found = json.loads((project / "results" / "runs" / "tiny_shards" / "eval_000004.json").read_text())
        assert found["validation"]["tokens"] == 6000 - 1
        assert would_run(project, recipe="tiny_shards") == set()
        (tokens.parent / "raw" / "001_00000.parquet").unlink()
        (folder / "001_00000.parquet").write_bytes(b"other")
        output = snakemake(project, "--forcerun", "download_pinned", recipe="tiny_shards", code=1)
        logs = project / "results" / "logs" / "data"
        (log,) = logs.glob("tiny_shards-*/fetch/001_00000.parquet.log")
        assert "not the file that is pinned" in log.read_text()
    finally:
        path.unlink()


def test_execution_reruns_nothing(project: Path) -> None:
    for flags in (
        [
            "--set-resources",
            "train:ranks=2",
            "train:micro_batch=1",
            "train:recompute=1",
            "train:nodes=2",
            "train:rendezvous=a:1",
        ],
        ["--set-resources", "train:device=cuda", "evaluate:device=cuda", "--set-threads", "train=1"],
        ["--workflow-profile", "config/execution/gpu1"],
    ):
        assert would_run(project, *flags) == set(), flags
    forced = snakemake(project, "-n", "-p", "--workflow-profile", "config/execution/two_ranks", "--forcerun", "train")
    assert "--ranks 2" in forced
    assert "--nodes" not in forced
    forced = snakemake(
        project, "-n", "-p", "--set-resources", "train:nodes=2", "train:rendezvous=a:1", "--forcerun", "train"
    )
    assert "--nodes 2 --rendezvous a:1" in forced


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


def test_what_cannot_change_a_bit_reruns_nothing(project: Path) -> None:
    """All at once: a message, comments, an optional key, the rooms that bear no bits, another model, other checks of
    the bindings.
    """
    checks = next((project / "cuda_ops").rglob("checks.h"))
    edits: list[tuple[str, tuple[str, str] | str]] = [
        ("pipeline/data/shards.py", ("no such shard;", "there is no such shard;")),
        ("pipeline/training/trainer.py", ('"""', '"""Another docstring. ')),
        (
            "pipeline/recipe/recipe.py",
            ("    steps: int = Field", "    note: str | None = None\n    steps: int = Field"),
        ),
        ("pipeline/machine/memory.py", "\nADDED = 1\n"),
        ("pipeline/pages/charts.py", "\nADDED = 1\n"),
        ("pipeline/records/receipt.py", "\nADDED = 1\n"),
        ("pipeline/evidence/rerun.py", "\nADDED = 1\n"),
        ("workflow/rules/train.smk", ("rule train:", "# another comment\nrule train:")),
        ("config/recipes/tiny.yaml", ("name: tiny", "# a comment\nname: tiny")),
        ("cuda_ops/cpu/gelu.cpp", "\n// a comment\n"),
        (str(checks.relative_to(project)), "\nstatic int added;\n"),
        ("cuda_ops/cpu/unary.cpp", "\nstatic int added;\n"),
    ]
    other = project / "pipeline" / "models" / "twolayer.py"
    with ExitStack() as stack:
        for path, edit in edits:
            stack.enter_context(edited(project / path, edit))
        if not other.exists():
            other.write_text("")
            stack.callback(other.unlink)
        stack.enter_context(edited(other, "\nADDED = 1\n"))
        assert would_run(project) == set()


def test_edits_rerun_exactly_what_depends(project: Path) -> None:
    recipe = project / "config" / "recipes" / "tiny.yaml"
    code = "\nADDED = 1\n"
    for path, edit, expected in (
        (project / "cuda_ops" / "cpu" / "sample.cpp", "\nstatic int added;\n", FROM_SAMPLES),
        (project / "cuda_ops" / "cpu" / "matmul.cpp", "\nstatic int added;\n", FROM_TRAINING),
        (project / "pipeline" / "training" / "schedule.py", code, FROM_TRAINING),
        (project / "pipeline" / "sample.py", code, FROM_SAMPLES),
        (project / "pipeline" / "data" / "fables.py", code, EVERYTHING),
        (recipe, ("seed: 5", "seed: 6"), FROM_TRAINING),
        (recipe, ("stories: 300", "stories: 301"), EVERYTHING),
        (recipe, ("vocab_size: 300}", "vocab_size: 300} # words"), set()),
        (recipe, ("validation_permille: 100", "validation_permille: 101"), EVERYTHING - {"download"}),
        (recipe, ("temperature: 1.0", "temperature: 0.5"), FROM_SAMPLES),
    ):
        with edited(path, edit):
            assert would_run(project) == expected, (path, edit)


def test_the_plan_says_which_part_moved(project: Path) -> None:
    with edited(project / "cuda_ops" / "cpu" / "sample.cpp", "\nstatic int added;\n"):
        reason = re.search(r"before: '(.*)' now: '(.*)'", snakemake(project, "-n"))
    assert reason
    before, now = (set(text.split()) for text in reason.groups())
    assert [part.split(":")[0] for part in before - now] == ["ops.sample"]


def test_the_same_recipe_elsewhere_is_the_same_run(project: Path) -> None:
    """No path is a trigger: not the recipe's, not the name of its file, not that of the text or the weights."""
    own = project / "own.yaml"
    shutil.copy(project / "config" / "recipes" / "tiny.yaml", own)
    try:
        for path in ("own.yaml", "./own.yaml", str(own)):
            assert would_run(project, recipe=path) == set(), path
    finally:
        own.unlink()


def test_rolling_checkpoints_outlive_an_edit_that_changes_no_bit(project: Path) -> None:
    """A run that is stopped goes on after a harmless edit, to the bits of the run that was not; another begins anew."""
    out = project / "results" / "again"
    recipe = load_recipe(project / "config" / "recipes" / "tiny.yaml")
    first = recipe.artifacts.checkpoints[0]
    names = (checkpoint_name(first), chain_name(first))

    def train(stopped_at: int = 0) -> str:
        code = (
            STOPPED.format(step=stopped_at)
            if stopped_at
            else "from pipeline import train\nraise SystemExit(train.main())"
        )
        flags = ["--recipe", "config/recipes/tiny.yaml", "--steps-to", str(first), "--state", str(out / "state")]
        flags += ["--out", str(out / names[0]), "--chain", str(out / names[1])]
        env = os.environ | {"PYTHONPATH": str(project), "SAMEBITS_BUILD": "results/build"}
        found, stdout, stderr = forked("torch", ["-c", code, *flags], project, env)
        assert found == (128 + signal.SIGTERM if stopped_at else 0), stderr
        return stdout + stderr

    assert "stopped after step 2" in train(stopped_at=1)
    with edited(project / "pipeline" / "training" / "schedule.py", "\nADDED = 1\n"):
        assert "resuming" not in train(stopped_at=1)
    with (
        edited(project / "pipeline" / "data" / "shards.py", ("no such shard;", "there is no such shard;")),
        edited(project / "pipeline" / "machine" / "memory.py", "\nADDED = 1\n"),
    ):
        assert "resuming from step 2 " in train()
    run = project / "results" / "runs" / "tiny"
    assert [sha256_of(out / name) for name in names] == [sha256_of(run / name) for name in names]


def test_a_rerun_that_fails_costs_no_checkpoint(own: Path) -> None:
    run = own / "results" / "runs" / "tiny"
    kept = {path.name: sha256_of(path) for path in sorted(run.glob("*_00000*"))}
    assert len(kept) == 8
    fault = (
        "    runtime.set_threads(execution.threads_per_rank)\n",
        '    runtime.set_threads(execution.threads_per_rank)\n    raise UserError("a fault")\n',
    )
    with edited(own / "pipeline" / "train.py", fault):
        output = snakemake(own, code=1)
        assert would_run(own) == FROM_TRAINING  # what was put back is not taken for the new run
    assert re.search(
        "^error: a fault\ntrain ended with exit code 2; what it said is above and in results/logs/tiny/train_000003.log",
        output, re.MULTILINE,
    )  # fmt: skip
    assert "Exception" not in output
    assert "no backup" not in output
    assert {path.name: sha256_of(path) for path in sorted(run.glob("*_00000*"))} == kept
    assert {path.name for path in run.iterdir()} >= {"samples.json", "digests.json", "report.html"}


def test_the_library_is_built_before_the_first_job_if_it_is_stale(project: Path) -> None:
    """What the build itself does is tests/ops/test_library.py's; here it is replaced by one that tells."""
    compiler = project / "pipeline" / "compile.py"
    text = compiler.read_text()
    digest = project / "results" / "build" / "ops.digest"
    built = digest.read_text()
    compiler.write_text(
        f"from pathlib import Path\nprint('building')\nPath('results/build/ops.digest').write_text({built!r})\n"
    )
    try:
        assert "building" not in snakemake(project, "--forcerun", "verify")
        digest.write_text("0" * 64 + "\n")
        assert "building" not in snakemake(project, "-n", "--forcerun", "verify")
        output = snakemake(project, *LOUD, "--forcerun", "verify")
        assert output.index("building") < output.index("rule verify")
        assert digest.read_text() == built
    finally:
        compiler.write_text(text)
        digest.write_text(built)


def test_recipes_share_a_corpus_and_never_rerun_each_other(project: Path) -> None:
    """Another order of samples, no texts drawn, one checkpoint: the corpus and its tokens are those of tiny."""
    content = yaml.safe_load((project / "config" / "recipes" / "tiny.yaml").read_text())
    content["name"] = "other"
    content["bits"]["data"]["order"] = "random"
    content["bits"] |= {"steps": 1}
    content["bits"]["schedule"]["warmup_steps"] = 0
    content["artifacts"] = {"scores": [{"kind": "loss"}]}
    path = project / "config" / "recipes" / "other.yaml"
    path.write_text(json.dumps(content))
    try:
        output = snakemake(project, "-n", recipe="tiny,other")
        assert rules_of(output) == FROM_TRAINING - {"sample"}
        assert "output: results/runs/tiny/" not in output
        output = snakemake(project, recipe="tiny,other")
        assert "other: 8 digests, none published yet" in output
        assert (
            would_run(project) == would_run(project, recipe="other") == would_run(project, recipe="tiny,other") == set()
        )
        # A recipe that begins from a checkpoint of another brings it into the graph.
        content["name"] = "later"
        content["bits"]["init"] = {"kind": "checkpoint", "recipe": "other", "step": 1, "sha256": "0" * 64}
        later = path.with_name("later.yaml")
        later.write_text(json.dumps(content))
        with edited(project / "pipeline" / "training" / "schedule.py", "\nADDED = 1\n"):
            output = snakemake(project, "-n", "-p", recipe="later")
        assert "results/runs/other/step_000001.safetensors.sha256" in output
        assert re.search(r"--previous none --init results/runs/other/step_000001.safetensors ", output)
        assert re.search(r"pipeline\.spikes .* --init results/runs/other/step_000001.safetensors ", output)
        assert len(re.findall(r"^rule train:", output, re.MULTILINE)) == 2
        assert not re.search(r"^rule (report|verify):\n    input: results/runs/other", output, re.MULTILINE)
        content["bits"]["init"]["step"] = 2
        later.write_text(json.dumps(content))
        assert "bits.init.step 2: other has checkpoints at 1" in snakemake(project, "-n", recipe="later", code=1)
        later.unlink()
    finally:
        path.unlink()


def test_a_question_source_plans_its_making_and_evaluation_alone(project: Path) -> None:
    """Nothing of the corpus or of training, whether the recipe stands alone or beside one with the same questions."""
    asked = project / "asked.jsonl"
    recipe = project / "config" / "recipes" / "tiny.yaml"
    with edited(recipe, ("{kind: choices}", "{kind: choices, at: [3]}")):  # on the way: that evaluation alone
        output = snakemake(project, "-n")
        assert rules_of(output) == {"evaluate", "digest", "verify", "report"}
        assert re.findall(r"output: \S+(eval_\d+)\.json", output) == ["eval_000003"]
    asked.write_text('{"context": "Ada", "endings": [" was sad.", " was happy."], "label": 0}\n')
    source = f"{{kind: file, path: asked.jsonl, sha256: {sha256_of(asked)}, format: jsonl}}"
    other = recipe.with_name("other.yaml")
    expected = {"prepare_questions", "evaluate", "digest", "verify", "report"}
    try:
        with edited(recipe, ("{kind: choices}", f"{{kind: choices, source: {source}}}")):
            output = snakemake(project, "-n", "-p")
            assert rules_of(output) == expected
            made = re.findall(r"output: (\S+/choices-[0-9a-f]{8}\.json) \(update\), (\S+\.source\.json) ", output)
            assert len(made) == 1
            last = re.search(r"rule evaluate:\n    input: (.*)\n    output: \S+eval_000006\.json", output)
            assert last
            assert set(made[0]) <= set(last[1].split(", "))
            other.write_text(recipe.read_text().replace("name: tiny\n", "name: other\n", 1))
            output = snakemake(project, "-n", recipe="tiny,other")
            assert rules_of(output) == expected | FROM_TRAINING
            assert not re.search(r"^rule train:\n    input: .*\n    output: results/runs/tiny", output, re.MULTILINE)
            assert len(re.findall(r"^rule prepare_questions:", output, re.MULTILINE)) == 1
        assert would_run(project) == set()
    finally:
        asked.unlink()
        other.unlink(missing_ok=True)


def test_a_published_digest_that_differs_fails_and_names_the_first(own: Path) -> None:
    expected = own / "config" / "expected" / "tiny.json"
    bless = ["-m", "pipeline.bless", "--recipe", "config/recipes/tiny.yaml"]
    code, stdout, stderr = forked("torch", bless, own, dict(os.environ))
    assert code == 0, stderr
    assert "12 digests, 12 changed" in stdout
    run = own / "results" / "runs" / "tiny"
    lines = (expected.parent / "chains" / "tiny.tsv").read_text().splitlines()
    parts = [(run / f"chain_{n:06d}.tsv").read_text().splitlines() for n in (3, 6)]
    assert lines == parts[0] + parts[1][1:]
    assert "tiny: all 12 digests equal the published ones" in snakemake(own)
    text = expected.read_text()
    key = re.search(r'"train/chain_000006.tsv": "(\w)', text)
    assert key
    expected.write_text(text[: key.start(1)] + ("0" if key[1] != "0" else "1") + text[key.end(1) :])
    output = snakemake(own, code=1)
    assert "1 of 12 digests do not equal the published ones; the first is train/chain_000006.tsv (DIFFERS)" in output
    assert (run / "step_000006.safetensors").exists()
    expected.unlink()
    (expected.parent / "chains" / "tiny.tsv").unlink()
    assert "verify" in would_run(own)


def test_a_key_that_is_none_and_a_name_that_belongs_to_other_bits(project: Path) -> None:
    with edited(project / "config" / "recipes" / "tiny.yaml", ("seed: 5", "sed: 5")):
        assert "bits.sed" in snakemake(project, "-n", code=1)
    copied = project / "copied.yaml"
    copied.write_text((project / "config" / "recipes" / "tiny.yaml").read_text().replace("seed: 5", "seed: 6"))
    try:
        assert "its name is tiny" in snakemake(project, "-n", recipe="copied.yaml", code=1)
    finally:
        copied.unlink()


def test_no_rule_needs_to_know_the_cores(project: Path) -> None:
    """Under an executor there may be none; the linter finds nothing but that stages run in the environment of the
    project.
    """
    assert "workflow.cores" not in "".join(path.read_text() for path in (ROOT / "workflow").rglob("*.smk"))
    output = snakemake(project, "-n", "--forcerun", "train", cores=("--executor", "touch", "--jobs", "2"))
    assert "rule train" in output
    assert findings(project) == []


def test_the_report_of_snakemake_holds_page_table_and_samples(project: Path) -> None:
    page = project / "snakemake.html"
    snakemake(project, "--report", str(page))
    text = page.read_text()
    for name in ("report.html", "verification.txt", "samples.json"):
        assert f"results/runs/tiny/{name}" in text, name


def test_a_text_of_ones_own(project: Path) -> None:
    """The recipe over another text: its own name, nothing published, and no failure."""
    from pipeline.base.philox import Stream
    from pipeline.data.fables import Teller

    teller = Teller(99, Stream.CORPUS)
    (project / "My Own.txt").write_text("".join(teller.story(i).text for i in range(150)))
    output = snakemake(project, config=("data=My Own.txt",))
    (name,) = re.findall(r"(tiny-my_own-[0-9a-f]{8}): 12 digests, none published yet", output)
    assert (project / "results" / "runs" / name / "report.html").exists()
    shutil.move(project / "My Own.txt", project / "My own.txt")  # another path, the same text
    assert would_run(project, config=("data=My own.txt",)) == set()
    assert would_run(project) == set()
    statement = json.loads((project / "results" / "runs" / name / "provenance.json").read_text())
    assert "My Own" not in json.dumps(statement["predicate"]["buildDefinition"]["externalParameters"]["recipe"]["bits"])
