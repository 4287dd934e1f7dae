"""pytest tests/workflow/test_commands.py

Every command that a page shows is run, on the run of the tiny recipe in the place of fables, or stands in NOT_RUN with
the reason. What a message says makes a file again does.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_ops.errors import UserError
from pipeline.base.files import sha256_of
from pipeline.data.prepared import Prepared
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import data_dir, run_dir, tokens_dir
from tests.conftest import ROOT
from tests.test_pages import pages

PROGRAMS = ("python", "snakemake", "make", "pytest", "sha256sum", "source", "srun", "SAMEBITS_BUILD", "torchrun")
NOT_RUN = {  # a pattern of the whole command -> why no test runs it here
    r"source .*": "it names the environment; a test has it",
    r"make( .*)?": "the whole of CI; its parts have tests (Makefile, tests/test_pages.py)",
    r"pytest .*": "tests, run as such",
    r"snakemake .*recipe=(shakespeare_char|fables_int8x3)": "minutes of training",
    r"(python -m pipeline\.import_weights log124M/.*|snakemake .*recipe=results/recipes/taken_up\.yaml)": "llm.c's files; test_llmc_state.py",
    r"snakemake .*data=path/to/my\.txt": "test_a_text_of_ones_own",
    r"snakemake .*profile config/execution/gpu1.*": "a GPU; test_execution_reruns_nothing plans it",
    r"python -m pipeline\.train --device cuda \.\.\.": "a GPU",
    r"python -m pipeline\.(compile|gpu_proof)\b.*": "a compilation, or a GPU; tests/ops/test_library.py, tests/evidence",
    r"python -m pipeline\.\w+ --recipe \$recipe .*": "lines of a script; tests/evidence/test_first_checks.py runs it",
    r"python -m pipeline\.lm_eval .*": "lm-evaluation-harness, an environment of its own; tests/scoring",
    r"python -m pip install .*": "packages",
    r"python -m pipeline\.verify .*--require-published .*": "tiny is not published; tests/records/test_verify.py",
    r"srun .*": "several machines; tests/machine/test_launch.py",
    r"python -m (benchmarks|tests)\..*": "minutes of measurement, or proofs at full size",
}  # fmt: skip
TINY = (
    ("config/recipes/fables.yaml", "config/recipes/tiny.yaml"), ("results/runs/fables", "results/runs/tiny"),
    ("config/expected/fables.json", "results/runs/tiny/digests.json"), ("step_001000", "step_000006"),
    ("path/to/another/run", "results/runs/tiny"), ("path/to/B", "results/runs/tiny"),
    ("other/fables", "results/runs/tiny"), ("--step 251", "--step 5"), ("step_000250", "step_000003"),
    ("--steps-to 251", "--steps-to 4"), ("/tmp/again", "results/again"), ("results/runs/gpt2_124m", "results/runs/tiny"),
    ("--recipe fables", "--recipe tiny"),
)  # fmt: skip


def shown() -> dict[str, list[str]]:
    """The commands in blocks of the pages, continued lines joined, with the pages that show them."""
    found: dict[str, list[str]] = {}
    for path in pages():
        for block in re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if line.split(" ")[0].split("=")[0] in PROGRAMS:
                    command = re.sub(r"\s{3,}.*| +#.*", "", line)
                    found.setdefault(command, []).append(path.relative_to(ROOT).as_posix())
    return found


def reasons(command: str) -> list[str]:
    return [why for pattern, why in NOT_RUN.items() if re.fullmatch(pattern, command)]


def test_every_command_is_run_or_has_a_reason() -> None:
    commands = shown()
    assert len(commands) > 30
    assert not [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, c) for c in commands)], "shown nowhere"
    rest = [command for command in commands if not reasons(command)]
    assert len(rest) >= 15
    assert all(command.startswith(("python ", "snakemake ", "sha256sum ")) for command in rest)


def here(command: str) -> str:
    """A command on the tiny run."""
    for word, other in TINY:
        command = command.replace(word, other)
    if command.startswith("snakemake"):
        command = f"{command} --config recipe=tiny" if "--config" not in command else command
    return command


# Runs commands one after another in one process, which imports torch once: argument lists in, code and last words out.
RUNNER = """
import contextlib, io, json, runpy, sys, traceback
for words in json.load(sys.stdin):
    sys.argv, said, code = list(words), io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = traceback.format_exc()
    print(json.dumps([code, said.getvalue()[-600:]]), flush=True)
"""


def test_the_commands_of_the_pages_run(own: Path) -> None:
    """On a copy of the run: some write over parts of it."""
    (own / "corpora").mkdir()
    (own / "corpora" / "letters.txt").write_text("A letter of one's own.\n")
    (own / "my_pages").mkdir()
    (own / "my_pages" / "page.txt").write_text("A page of one's own.\n")
    env = {k: v for k, v in os.environ.items() if k not in ("SAMEBITS_BUILD", "PYTHONPATH")}
    commands = dict.fromkeys(here(command) for command in shown() if not reasons(command))
    assert len(commands) >= 12
    stages = [command for command in commands if command.startswith("python -m pipeline.")]
    argv = [shlex.split(command.removesuffix(" || exit $?"))[2:] for command in stages]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], cwd=own, env=env, input=json.dumps(argv), capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(stages), done.stderr
    failed = [f"{command}: {code}\n{said}" for command, (code, said) in zip(stages, found, strict=True) if code]
    for command in commands:
        if command not in stages:
            cwd = own / "results" / "runs" / "tiny" if command.startswith("sha256sum") else own
            line = command.replace("python ", f"{sys.executable} ").replace(
                "snakemake ", f"{sys.executable} -m snakemake "
            )
            ran = subprocess.run(["bash", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, check=False)
            failed += [f"{command}: {ran.returncode}\n{(ran.stdout + ran.stderr)[-600:]}"] if ran.returncode else []
    assert not failed, "\n\n".join(failed)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_what_a_message_names_makes_the_file_again(own: Path, tmp_path: Path) -> None:
    """Every kind of artefact, damaged or deleted."""
    recipe = load_recipe(own / "config" / "recipes" / "tiny.yaml")
    env = {k: v for k, v in os.environ.items() if k not in ("SAMEBITS_BUILD", "PYTHONPATH")}
    corpus, tokens, run = (own / folder(recipe) for folder in (data_dir, tokens_dir, run_dir))
    files = [path for place in (corpus, tokens, run) for path in sorted(place.iterdir()) if path.is_file()]
    made = {path: sha256_of(path) for path in files}

    def command(words: str, code: int) -> str:
        done = subprocess.run(
            ["bash", "-c", re.sub(r"^(python|snakemake) ", rf"{sys.executable} -m \1 ", words).replace("-m python ", "")],
            cwd=own, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    shared = "--recipe config/recipes/tiny.yaml"
    score = (
        f"python -m pipeline.evaluate {shared} --checkpoint {run / 'step_000006.safetensors'} --out {tmp_path}/e.json"
    )
    for reader, places, advice in (
        (
            f"python -m pipeline.prepare_text {shared}",
            [corpus / "documents.jsonl", corpus / "choices.jsonl"],
            "download",
        ),
        (score, [path for path in files if path.parent == tokens], "prepare_text"),
    ):
        for path in sorted(places, key=lambda path: path.name == "tokens.json"):  # the record of the others last
            damage(path)
            if advice == "prepare_text" and path.name != "tokens.json":
                with pytest.raises(UserError, match=f"{path.name}: .*python -m pipeline.{advice} --recipe … makes"):
                    Prepared(tokens).file(path.name)
        said = re.search(r"(python -m pipeline\.\w+ --recipe \S+) makes", command(reader, 2))
        assert said
        assert said[1] == f"python -m pipeline.{advice} {shared}"
        command(said[1], 0)
        assert {path: sha256_of(path) for path in places} == {path: made[path] for path in places}
    damage(run / "step_000006.safetensors")
    assert "move it away and run again" in command(score, 2)
    for name in ("step_000006.safetensors", "chain_000003.tsv", "eval_000003.json", "samples.json", "digests.json"):
        (run / name).rename(tmp_path / name)
    (corpus / "documents.jsonl").unlink()
    (tokens / "val_000000.bin").unlink()
    advice = r": missing; (?:run (snakemake .* --config recipe=\S+)$|(python -m pipeline\.\w+ --recipe \S+) makes it$)"
    followed = []
    for _ in range(3):  # verify names one file at a time
        said = re.search(advice, command(f"python -m pipeline.verify {shared}", 1), re.MULTILINE)
        assert said
        followed.append(said[1] or said[2])
        command(followed[-1], 0)
    assert [words.split()[:3][-1] for words in followed[:2]] == ["pipeline.download", "pipeline.prepare_text"]
    assert followed[2] == "snakemake --cores all reproduction --config recipe=config/recipes/tiny.yaml"
    command(f"python -m pipeline.verify {shared}", 0)
    timed = {
        "report.html",
        "spikes.json",
        "provenance.json",
        "verification.txt",
        "metrics.jsonl",
    }  # they hold times, or paths
    assert {path: sha256_of(path) for path in files if path.name not in timed} == {
        path: digest for path, digest in made.items() if path.name not in timed
    }
