"""pytest tests/workflow/test_bad_input.py

What a user of a full-size recipe may hand in wrong: each command ends with exit code 2 and one message that names the thing and
the remedy, and leaves every file as it was. No room for shards and a revision that vanished need a disk and a hub of their own:
tests/data/test_shards.py, tests/data/test_pins.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import safetensors.torch
import torch

from pipeline.base.files import sha256_of
from pipeline.download import fetch_pins
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import Trainer
from tests.conftest import ROOT, compile_ops
from tests.data import fineweb
from tests.workflow.test_commands import RUNNER

Command = tuple[list[str], str]  # words, and a pattern of what it must say


def parquet_faults(folder: Path) -> list[Command]:
    """A file that is cut, of another column type, with a null, and another one than is pinned."""
    found: list[Command] = []
    for name, text in (("cut", ["a"] * 9), ("numbers", [1, 2]), ("null", ["a", None]), ("moved", ["a"])):
        pages, recipe = folder / name, folder / f"{name}.yaml"
        pages.mkdir()
        parquet.write_table(pa.table({"text": text}), pages / "x.parquet")
        if name == "cut":
            (pages / "x.parquet").write_bytes((pages / "x.parquet").read_bytes()[:-9])
        fineweb.recipe_over(pages, recipe, 500, 1)
        if name == "moved":
            (pages / "x.parquet").write_bytes((pages / "x.parquet").read_bytes() + b" ")
        said = {
            "cut": r"x\.parquet: not a readable parquet file",
            "numbers": "column 'text' holds int64, expected string; name another by column",
            "null": r"x\.parquet: row 1: column 'text' holds null, expected text",
            "moved": r"x\.parquet: not the file that is pinned .*python -m pipeline\.pin",
        }[name]
        data = ["--recipe", str(recipe), "--out", str(folder / "made" / name)]
        if name == "null":  # nothing is read before it is prepared
            found.append((["pipeline.download", *data], ""))
            data = [
                "--recipe",
                str(recipe),
                "--data",
                data[-1],
                "--out",
                str(folder / "made" / "t"),
                "--gpt2",
                str(folder / "bpe"),
            ]
            found.append((["pipeline.prepare_text", *data, "--threads", "1"], said))
        else:
            found.append((["pipeline.download", *data], said))
    return found


def mirror_fault(folder: Path) -> Command:
    """A mirror that has the name and another content, and no hub."""
    (folder / "mirror").mkdir()
    (folder / "mirror" / "0.txt").write_bytes(b"other")
    file = {"name": "0.txt", "bytes": 7, "sha256": hashlib.sha256(b"content").hexdigest()}
    (folder / "pins.yaml").write_text(json.dumps({"repo": "a/b", "revision": "1" * 40, "files": [file]}))
    words = ["pipeline.download", "--pins", str(folder / "pins.yaml"), "--out", str(folder / "made" / "raw")]
    return words, r"mirror/0\.txt has the name, but not the SHA-256 that is pinned"


def test_each_bad_input_is_one_message_and_loses_nothing(tiny: dict[str, Path], tmp_path: Path) -> None:
    compile_ops()
    recipe, tokens = ["--recipe", str(tiny["recipe"])], ["--tokens", str(tiny["tokens"])]
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(), Ranks(), tiny["tokens"])
    trainer.initialise()
    trainer.step = 6  # the last, at which every score is taken
    checkpoint = tmp_path / "step_000006.safetensors"
    trainer.save(checkpoint)
    fetch_pins(ROOT / "config" / "data" / "gpt2_bpe.yaml", tmp_path / "bpe", None)
    other = tmp_path / "other.safetensors"
    other.write_bytes(safetensors.torch.save({"wte.weight": torch.zeros(2, 2)}))
    begun = tmp_path / "begun.yaml"
    init = f"init: {{kind: weights, path: {other}, sha256: {sha256_of(other)}}}"
    begun.write_text(tiny["recipe"].read_text().replace("  schedule:", f"  {init}\n  schedule:"))
    asked = tmp_path / "asked.yaml"
    source = f"{{kind: file, path: {tmp_path}/gone.jsonl, sha256: {'a' * 64}, format: jsonl}}"
    asked.write_text(tiny["recipe"].read_text().replace("{kind: choices}", f"{{kind: lambada, source: {source}}}"))
    made = tmp_path / "made"
    chains = ["--out", str(made / "x.safetensors"), "--chain", str(made / "chain.tsv")]
    of_run = [*tokens, "--checkpoint", str(checkpoint)]
    commands = [
        *parquet_faults(tmp_path),
        mirror_fault(tmp_path),
        (
            ["pipeline.train", "--recipe", str(begun), *tokens, "--steps-to", "6", *chains],
            r"other\.safetensors: wte\.weight is .* of shape \[2, 2\], expected .* the vocabulary is not the 300 tokens",
        ),
        (
            ["pipeline.sample", *recipe, *of_run, "--prompt", "1 2 3 4 5 6 " * 20],
            "has 241 tokens, bits.model.context is 48: give a shorter",
        ),
        (["pipeline.prepare_questions", "--recipe", str(asked), *tokens], r"gone\.jsonl: no such file"),
        (
            ["pipeline.evaluate", "--recipe", str(asked), *of_run, "--out", str(made / "e.json")],
            r"no such file; python -m pipeline\.prepare_questions",
        ),
    ]

    def kept() -> dict[str, str]:
        given = [path for path in [*tmp_path.rglob("*"), *tiny["tokens"].iterdir()] if path.is_file()]
        return {str(path): sha256_of(path) for path in given if made not in path.parents}

    before = kept()
    env = os.environ | {"SAMEBITS_MIRROR": str(tmp_path / "mirror"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], cwd=tmp_path, env=env, input=json.dumps([words for words, _ in commands]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(commands), done.stderr[-2000:]
    for (words, pattern), (code, said) in zip(commands, found, strict=True):
        assert code == (2 if pattern else 0), (words, code, said)
        assert re.search(pattern, said), (words, said)
        assert not pattern or said.count("error: ") == 1, said
        assert "Traceback" not in said
    assert {path: digest for path, digest in kept().items() if path in before} == before
