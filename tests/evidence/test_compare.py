"""pytest tests/evidence/test_compare.py

What pipeline.compare reads: equal lines of other recipes are no equality, and a file that is not what it should be is an error that names it.
What it finds when runs part is in tests/evidence/test_sabotage.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.checkpoint import Checkpoint, save
from pipeline.base.tensors import KEY
from pipeline.compare import flags, side
from pipeline.evidence import sides, trace
from pipeline.evidence.comparison import Comparison
from pipeline.evidence.sides import Side
from pipeline.evidence.trace import Seen, Trace
from pipeline.recipe import as_written, load_recipe, parse_recipe, recipe_id
from pipeline.recipe.paths import tokens_dir
from tests.conftest import ROOT, run

RECIPE = ROOT / "tests" / "recipes" / "tiny.yaml"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A chain of two steps, of no particular recipe."""
    path, link, made = tmp_path / "chain_000002.tsv", chain.START, []
    for step in (1, 2):
        made.append(chain.Line(step, 5.5, 1e-3, 0.7, step).linked(link))
        link = made[-1].link
    chain.write(path, made)
    return path


@pytest.mark.parametrize(("key", "other"), [("steps: 6", "steps: 7"), ("", "")], ids=["another key", "one recipe"])
def test_equal_lines_of_other_recipes_are_not_equal(lines: Path, tmp_path: Path, key: str, other: str) -> None:
    changed = tmp_path / "tiny.yaml"
    changed.write_text(RECIPE.read_text().replace(key, other) if key else RECIPE.read_text())
    found = Comparison(Side("A", lines, RECIPE).read(), Side("B", lines, changed).read())
    found.run(None)
    assert found.result.equal == (not key)
    assert found.result.causes == (["other recipe: bits.steps: 6 and 7"] if key else [])
    output = run(
        "-m", "pipeline.compare", str(lines), str(lines), "--recipe-a", str(RECIPE), "--recipe-b", str(changed), code=1 if key else 0
    )  # fmt: skip
    assert ("equal:" in output) == (not key)


def test_a_side_begins_from_the_weights_that_are_given(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--init of compare reaches the replay of each side, as a path that holds in the side's folder."""
    commands = []

    def started(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("pipeline.evidence.sides.subprocess.run", started)
    monkeypatch.chdir(tmp_path)
    for given in (["--init", "begin.safetensors"], []):
        args = flags().parse_args([str(lines), str(lines), "--recipe", str(RECIPE), *given])
        side(args, "b").replay(2, tmp_path / "trace")
    assert commands[0][-2:] == ["--init", str(tmp_path / "begin.safetensors")]
    assert "--init" not in commands[1]


@pytest.mark.parametrize("key", ["download/images.bin", "prepare_images/train_000000.bin", "prepare_text/bpe.json"])
def test_other_data_are_a_cause(tmp_path: Path, key: str) -> None:
    """Of images as of texts; another checkpoint is none."""
    sides = []
    for name, digest in (("A", "0"), ("B", "1")):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({key: digest * 64, "train/step_000006.safetensors": digest * 64}))
        sides.append(Side(name, path).read())
    found = Comparison(*sides)
    found.run(None)
    assert (found.result.artefact, found.result.causes) == (key, [f"other data: {key}"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ("{}", "not a statement of a run"),
        (json.dumps({"predicate": {"buildDefinition": {"externalParameters": []}}}), "not a statement of a run"),
        (json.dumps({"predicate": {"buildDefinition": {"externalParameters": {"recipe": {}}}}}), "provenance.json"),
    ],
)
def test_a_malformed_statement(lines: Path, content: str, said: str) -> None:
    """It is named, and the rest compared: no evidence is in the way of other evidence."""
    (lines.parent / "provenance.json").write_text(content)
    found = compared(lines.parent, lines)
    assert (found.a.recipe, list(found.a.lines), found.result.equal) == (None, [1, 2], False)
    assert found.result.causes == ["side A is damaged"]
    assert any(said in note for note in found.result.notes)
    assert "remove" not in str(found.result)


@pytest.mark.parametrize(
    ("about", "said"),
    [({}, "step None"), ({"step": "3"}, "step '3'"), ([], "expected an object"), (None, "neither a checkpoint")],
)
def test_a_checkpoint_without_its_metadata(tmp_path: Path, about: object, said: str) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(1)}, None if about is None else {KEY: json.dumps(about)}))
    with pytest.raises(UserError, match=said):
        Side("A", path).read()


def test_a_device_reaches_the_step_computed_again(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pipeline.compare's flags give it; a side on another device is another setting, computed for itself."""
    from pipeline import compare

    commands: list[list[str]] = []

    def ran(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sides.subprocess, "run", ran)
    args = compare.flags().parse_args([str(lines), str(lines), "--recipe", str(RECIPE), "--device-b", "cuda"])
    a, b = compare.side(args, "a"), compare.side(args, "b")
    assert not a.same_setting(b)
    for one in (a, b):
        one.replay(1, tmp_path / "trace")
    assert ["--device" in command for command in commands] == [False, True]
    assert commands[1][commands[1].index("--device") + 1] == "cuda"
    args = compare.flags().parse_args([str(lines), str(lines), "--device", "tpu"])
    with pytest.raises(UserError, match="--device tpu: neither cpu nor cuda"):
        compare.side(args, "a")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two run folders with one checkpoint each, of equal tensors, and the statement of a recipe."""
    definition = {"externalParameters": {"recipe": as_written(load_recipe(RECIPE))}}
    found = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        tensors = {"w": torch.arange(8.0), "x": torch.ones(3)}
        save(folder / "step_000003.safetensors", Checkpoint(3, recipe_id(load_recipe(RECIPE)), "0" * 64, tensors))
        (folder / "provenance.json").write_text(json.dumps({"predicate": {"buildDefinition": definition}}))
        found.append(folder)
    return found[0], found[1]


def compared(a: Path, b: Path) -> Comparison:
    found = Comparison(Side("A", a).read(), Side("B", b).read())
    found.run(None)
    return found


def test_a_damaged_checkpoint_is_compared_and_named(two: tuple[Path, Path]) -> None:
    a, b = two
    assert compared(a, b).result.equal
    assert compared(a, b).result.notes == []
    path = b / "step_000003.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # of the last element of x
    path.write_bytes(content)
    found = compared(a, b).result
    assert (found.artefact, found.tensor and found.tensor.name) == ("train/step_000003.safetensors", "step_000003/x")
    assert "a single flipped bit" in found.causes
    assert any("B: " in note and "damaged" in note and note.endswith("compared as it is") for note in found.notes)
    assert "delete" not in str(found)
    lone = b.parent / "lone.safetensors"
    for folder in (a, b):
        save(folder / "step_000002.safetensors", Checkpoint(2, "", "0" * 64, {"w": torch.ones(4)}))
    for cut, words, causes in (
        (content[:-5], "1 of 2 tensors are whole", "1 tensors of step 3 are whole on both sides, and equal"),
        (content + b"more", "2 of 2 tensors are whole", "a single flipped bit"),
        (content[:9], "not a whole safetensors file", ""),
    ):
        path.write_bytes(cut)
        lone.write_bytes(cut)
        for other in (b, path, lone) if causes else (b, path):
            found = compared(a, other).result
            assert (found.equal, found.artefact) == (False, "train/step_000003.safetensors")
            assert "side B is damaged" in found.causes
            assert any(other.name in note and words in note for note in found.notes)
            assert causes in [*found.causes, *found.notes, ""]
    assert compared(path, path).result.artefact == ""


def test_damage_is_no_refusal(two: tuple[Path, Path], lines: Path) -> None:
    """Of each other kind of file that a run has: what is whole is compared, what is not is named."""
    a, b = two
    (b / "digests.json").write_text('{"train/step_000003.safetens')
    (b / "receipts").mkdir()
    (b / "receipts" / "train_000003.json").write_text('{"stage": ')
    whole = lines.read_text()
    (a / lines.name).write_text(whole)
    (b / lines.name).write_text(whole[:-20])
    found = compared(a, b).result
    assert (found.equal, found.artefact) == (False, f"train/{lines.name}")
    said = "\n".join(found.notes)
    for words in ("digests.json: not JSON", "train_000003.json: not a receipt", "line 3 is not a line of a chain"):
        assert words in said
    assert "the 1 lines before it are compared" in said
    assert "first step" not in dict(compared(a, b / lines.name).table())
    changed = whole.replace("0x1.6", "0x1.7", 1)[:-20]
    (b / lines.name).write_text(changed)
    assert compared(a, b / lines.name).result.step == 1


def test_recipes_of_two_statements_are_two_settings(two: tuple[Path, Path]) -> None:
    """No flag tells them apart, yet neither's step may be computed for the other; a path is no other recipe."""
    a, b = two
    assert Side("A", a).read().same_setting(Side("B", b).read())
    statement = json.loads((b / "provenance.json").read_text())
    statement["predicate"]["buildDefinition"]["externalParameters"]["recipe"]["bits"]["seed"] = 6
    (b / "provenance.json").write_text(json.dumps(statement))
    found = compared(a, b)
    assert not found.a.same_setting(found.b)
    assert found.result.causes == ["other recipe: bits.seed: 5 and 6"]
    for one, name in ((found.a, "here.txt"), (found.b, "there.txt")):
        assert one.recipe
        content = as_written(one.recipe)
        content["bits"]["seed"] = 5
        content["bits"]["data"]["source"] = {"kind": "file", "path": name, "sha256": "0" * 64, "format": "text"}
        content["artifacts"]["scores"] = [{"kind": "loss"}]
        one.recipe = parse_recipe(content, name)
    again = Comparison(found.a, found.b)
    again.run(None)
    assert again.result.causes == []
    assert found.a.same_setting(found.b)


def test_a_trace_that_was_cut_off_is_compared_by_its_digests(tmp_path: Path) -> None:
    paths = []
    for name, last in (("a", 1.0), ("b", 2.0)):
        tensors = {"before/w": torch.ones(4), "loss": torch.full((4,), last)}
        seen = [Seen(n, "torch.float32", (4,), 1, trace.bytes_digest(t), 1.0, t) for n, t in tensors.items()]
        Trace({"step": 3, "line": "", "recipe_id": "r"}, seen).save(tmp_path / name)
        paths.append(tmp_path / name)
    tensor = compared(*paths).result.tensor
    assert tensor
    assert tensor.values == (1.0, 2.0)
    paths[1].write_bytes(paths[1].read_bytes()[:-3])
    found = compared(*paths).result
    assert (found.equal, found.tensor and found.tensor.name) == (False, "loss")
    assert any("1 of 2 tensors are whole" in note for note in found.notes)


def test_a_lone_checkpoint_is_compared_with_a_run(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Without the digest that was written beside it."""
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((two[1] / "step_000003.safetensors").read_bytes())
    assert compared(two[0], lone).result.equal
    assert "delete" not in run("-m", "pipeline.compare", str(two[0]), str(lone))


def test_the_recipe_of_a_statement_is_enough_to_compute_again(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a text of one's own too, whose path no statement has: its tokens lie among the results."""
    recipe = load_recipe(RECIPE)
    content = as_written(recipe)
    content["bits"]["data"]["source"] = {"kind": "file", "sha256": "0" * 64, "format": "text"}
    content["artifacts"]["scores"] = [{"kind": "loss"}]
    statement = {"predicate": {"buildDefinition": {"externalParameters": {"recipe": content}}}}
    folder = tmp_path / "results" / "runs" / "own"
    folder.parent.mkdir(parents=True)
    shutil.move(two[0], folder)
    (folder / "provenance.json").write_text(json.dumps(statement))
    side = Side("A", folder).read()
    assert side.recipe
    own = recipe_id(side.recipe)
    tokens = tmp_path / tokens_dir(side.recipe)
    tokens.mkdir(parents=True)
    (tokens / "tokens.json").write_text("{}")
    commands = []

    def ran(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        given = load_recipe(command[command.index("--recipe") + 1])
        assert recipe_id(given) == own
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sides.subprocess, "run", ran)
    side.replay(4, tmp_path / "trace")
    assert commands[0][commands[0].index("--tokens") + 1] == str(tokens)


def test_who_waits_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    said = threading.Event()
    with sides.Waiting("still computing", 0.01) as waiting:
        assert waiting is None
        while "still computing, 0 s" not in capsys.readouterr().err:
            said.wait(0.01)


def test_no_chart_has_empty_axes() -> None:
    """Differences that no axis shows make no chart: none, of a NaN, infinite."""
    from dataclasses import replace

    from pipeline.evidence.comparison import Result
    from pipeline.evidence.differences import difference
    from pipeline.pages.compare_page import growth, network

    nothing: list[dict[str, Any]] = [
        {"step": 1, "loss": 0.0, "norm": float("nan"), "weights": float("inf")},
        {"step": 2},
    ]
    assert growth(Result(growth=nothing)) is None
    assert growth(Result(growth=[*nothing, {"step": 3, "loss": 0.5}])) is not None
    found = difference("w", torch.tensor([1.0]), torch.tensor([2.0]))
    assert found
    assert network(Result(network=[found], order=["w"])) is not None
    for shown in (0.0, float("nan"), float("inf")):
        assert network(Result(network=[replace(found, relative=shown)], order=["w"])) is None
