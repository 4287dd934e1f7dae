"""pytest tests/training/test_sample.py

Texts of a prompt of one's own: found with a checkpoint alone, equal to the artefact where the settings are, shown
token by token without half a character, and never written over what a run has left.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuda_ops.errors import UserError
from pipeline import sample
from pipeline.data.tokenizers import BpeTokenizer, CharTokenizer
from pipeline.recipe import as_written, load_recipe, recipe_id
from pipeline.recipe.paths import tokens_dir
from pipeline.records.origin import recipe_in, recipe_of, tokens_of
from pipeline.records.provenance import without_paths
from tests.conftest import run

Draw = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as the workflow leaves it, in a results folder of its own."""
    recipe, base = load_recipe(tiny["recipe"]), tmp_path_factory.mktemp("sampled")
    tokens, folder = base / tokens_dir(recipe), base / "results" / "runs" / "tiny"
    shutil.copytree(tiny["tokens"], tokens)
    checkpoint, shared = folder / "step_000006.safetensors", ("--recipe", str(tiny["recipe"]), "--tokens", str(tokens))
    run(
        "-m", "pipeline.train", *shared, "--steps-to", "6", "--out", str(checkpoint),
        "--chain", str(folder / "chain_000006.tsv"), "--state", str(base / "state"),
    )  # fmt: skip
    run("-m", "pipeline.sample", *shared, "--checkpoint", str(checkpoint), "--out", str(folder / "samples.json"))
    definition = {"externalParameters": {"recipe": without_paths(as_written(recipe))}}
    (folder / "provenance.json").write_text(json.dumps({"predicate": {"buildDefinition": definition}}))
    return folder


@pytest.fixture
def draw(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Draw:
    """python -m pipeline.sample --checkpoint FILE and more flags; returns what it prints."""

    def command(*flags: str) -> str:
        checkpoint = str(folder / "step_000006.safetensors")
        monkeypatch.setattr(sys, "argv", ["sample", "--checkpoint", checkpoint, *flags])
        assert sample.main() == 0
        return capsys.readouterr().out

    return command


def test_a_checkpoint_and_a_prompt_are_enough_and_equal_settings_give_equal_text(folder: Path, draw: Draw) -> None:
    artefact = (folder / "samples.json").read_bytes()
    texts = [item["text"] for item in json.loads(artefact)]
    assert len(texts) == 2
    assert draw("--prompt", "Once") == f"--- 1 of 2\nOnce{texts[0]}\n--- 2 of 2\nOnce{texts[1]}\n"
    assert draw("--prompt", "Once", "--draws", "1") == f"Once{texts[0]}\n"
    assert draw("--stream") == draw("--prompt", "Once", "--stream") == draw("--prompt", "Once")
    assert draw("--prompt", "Once", "--draws", "1", "--seed", "8") != f"Once{texts[0]}\n"
    several = draw("--prompt", "Once", "--prompt", "é漢", "--temperature", "0", "--length", "5", "--draws", "1")
    assert several.startswith("--- 1 of 2\nOnce")
    assert "--- 2 of 2\né漢" in several
    assert several == draw(
        "--prompt", "Once", "--prompt", "é漢", "--temperature", "0", "--length", "5", "--draws", "1", "--stream"
    )
    assert (folder / "samples.json").read_bytes() == artefact
    assert not (folder / "receipts" / "sample.json").read_text().count("--prompt")


def test_a_run_s_texts_are_never_replaced_by_others(folder: Path, draw: Draw, tmp_path: Path) -> None:
    artefact = folder / "samples.json"
    before = artefact.read_bytes()
    with pytest.raises(UserError, match=r"--out .*samples\.json: holds what the recipe asks for"):
        draw("--prompt", "Ada", "--out", str(artefact))
    draw("--seed", "7", "--out", str(artefact))  # the recipe's own settings
    assert artefact.read_bytes() == before
    draw("--prompt", "Ada", "--length", "3", "--out", str(tmp_path / "samples.json"))
    assert [item["prompt"] for item in json.loads((tmp_path / "samples.json").read_text())] == ["Ada", "Ada"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--prompt", "1 2 3 4 5 6 " * 20],
            "--prompt has 241 tokens, bits.model.context is 48: give a shorter",
        ),
        (["--temperature", "nan"], "--temperature nan"),
        (["--temperature", "inf"], "--temperature inf"),
        (["--top-k", "-1"], "--top-k -1"),
        (["--length", "0"], "--length 0: expected 1 to 1,000,000"),
        (["--draws", "0"], "--draws 0"),
        (["--seed", "-1"], "--seed -1"),
    ],
    ids=["prompt", "nan", "inf", "top-k", "length", "draws", "seed"],
)
def test_what_cannot_be_drawn_is_refused(draw: Draw, flags: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        draw(*flags)
    assert said in str(error.value)


def test_half_a_character_waits_for_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of single bytes, some of them no UTF-8 at all: the pieces together are the text of all."""
    from pipeline.scoring import draw as module

    tokenizer = BpeTokenizer([])
    ids = [*"aé漢".encode(), 0xFF, *"🦊".encode()[:3]]
    settings = sample.Samples(prompts=("x",), length=len(ids))
    monkeypatch.setattr(module, "drawing", lambda *_: ([token] for token in ids))
    pieces: list[str] = []
    model: Any = None  # what is drawn is given
    (result,) = module.stream(settings, [[0]], tokenizer, model, lambda text, _: pieces.append(text))
    assert pieces[:6] == ["a", "", "é", "", "", "漢"]
    assert "".join(pieces) == result["text"] == tokenizer.decode(ids)
    assert b"".join(map(CharTokenizer("aé漢").bytes_of, (0, 1, 2))).decode() == "aé漢"


def test_the_recipe_and_the_tokens_are_found_or_asked_for(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe("config/recipes/fables.yaml")
    tiny, checkpoint = recipe_in(folder / "provenance.json"), folder / "step_000006.safetensors"
    assert recipe_of(checkpoint, {"recipe": "fables"}, recipe_id(recipe)) == recipe
    assert recipe_of(checkpoint, {"recipe": "tiny"}, recipe_id(tiny)) == tiny
    assert tokens_of(checkpoint, tiny) == folder.resolve().parents[2] / tokens_dir(tiny)
    with pytest.raises(UserError, match=r"of recipe fables, which is not found in .*fables\.yaml.* give --recipe"):
        recipe_of(checkpoint, {"recipe": "fables"}, "0" * 64)
    with pytest.raises(UserError, match=r"tokens\.json: no such file; .* or give --tokens"):
        tokens_of(tmp_path / "alone.safetensors", tiny)


def test_a_statement_over_a_text_of_one_s_own_is_read_without_its_path(tmp_path: Path) -> None:
    from pipeline.data import own

    text = tmp_path / "mine.txt"
    text.write_text("once upon a time\n" * 50)
    recipe = own.derive(load_recipe("config/recipes/shakespeare_char.yaml"), text)
    content = without_paths(as_written(recipe))
    assert "path" not in content["bits"]["data"]["source"]
    statement = tmp_path / "provenance.json"
    statement.write_text(json.dumps({"predicate": {"buildDefinition": {"externalParameters": {"recipe": content}}}}))
    source = recipe_in(statement).bits.data.source
    assert source.kind == "file"
    assert source.path == "unknown"
