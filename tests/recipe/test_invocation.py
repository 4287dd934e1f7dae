"""pytest tests/recipe/test_invocation.py

What --config and --set-resources may say, without a Snakemake: names of other bits, values that are none, resources
that a rule has not.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from snakemake.exceptions import WorkflowError

from cuda_ops.errors import UserError
from pipeline import digest
from pipeline.recipe import load_recipe
from pipeline.recipe.load import recipe_file
from tests.conftest import ROOT

TINY = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text()


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """workflow/common.py, in a folder of the user's own."""
    monkeypatch.syspath_prepend(ROOT / "workflow")
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("common")


@pytest.fixture
def checks(common: ModuleType) -> ModuleType:
    return importlib.import_module("checks")


def test_a_copy_whose_name_was_forgotten_is_refused(common: ModuleType, tmp_path: Path) -> None:
    """Where the name is that of a recipe beside it, as where it is one of config/recipes; in place an edit is free."""
    own, copy = tmp_path / "own.yaml", tmp_path / "copy.yaml"
    own.write_text(TINY.replace("name: tiny\n", "name: own\n"))
    copy.write_text(own.read_text().replace("seed: 5", "seed: 6"))
    assert list(common.Runs({"recipe": "own.yaml", "data": ""})) == ["own"]
    with pytest.raises(UserError, match=r"copy\.yaml: its name is own, which own\.yaml has for other bits"):
        common.Runs({"recipe": "copy.yaml", "data": ""})
    copy.write_text(TINY.replace("name: tiny\n", "name: fables\n"))
    with pytest.raises(UserError, match=r"copy\.yaml: its name is fables, which .*config/recipes/fables\.yaml has for"):
        common.Runs({"recipe": "copy.yaml", "data": ""})
    copy.write_text(own.read_text())  # the same bits: no matter which of the two is named
    assert list(common.Runs({"recipe": "copy.yaml", "data": ""})) == ["own"]
    (tmp_path / "fables").mkdir()  # a folder of that name hides no recipe
    assert list(common.Runs({"recipe": "fables", "data": ""})) == ["fables"]


def test_a_recipe_is_named_or_a_path_to_every_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the function that opens it, in any working folder; what is not there is told how a file of one's own is given."""
    monkeypatch.chdir(tmp_path)
    assert recipe_file("fables").resolve() == ROOT / "config" / "recipes" / "fables.yaml"
    assert recipe_file("my/own.yaml") == Path("my/own.yaml")
    assert recipe_file("own.yaml") == Path("own.yaml")
    assert load_recipe("fables").name == load_recipe(Path("fables")).name == "fables"
    own = r"config/recipes/nothing\.yaml: no such recipe; .*its path, as in path/to/nothing\.yaml$"
    with pytest.raises(UserError, match=own):
        load_recipe("nothing")
    with pytest.raises(UserError, match=r"^my/own\.yaml: no such recipe; see config/recipes/$"):
        load_recipe("my/own.yaml")
    monkeypatch.setattr(sys, "argv", ["digest", "--recipe", "fables"])
    with pytest.raises(UserError) as error:
        digest.main()
    assert "results/data/fables-" in str(error.value), "the recipe was found, only its files are not there"


@pytest.mark.parametrize("place", ["corpus", "questions", "weights"])
def test_a_local_file_that_is_not_there_is_refused_before_the_graph(
    checks: ModuleType, common: ModuleType, tmp_path: Path, place: str
) -> None:
    """Unless what is made of it lies there already; the message says where it was looked for."""
    file = "{kind: KIND, path: own/it.txt, sha256: " + "ab" * 32 + "}"
    text = {
        "corpus": re.sub(
            r"source: \{.*\}", f"source: {file.replace('KIND', 'file')}", TINY.replace(", {kind: choices}", "")
        ),
        "questions": TINY.replace("{kind: choices}", f"{{kind: lambada, source: {file.replace('KIND', 'file')}}}"),
        "weights": TINY.replace("bits:\n", f"bits:\n  init: {file.replace('KIND', 'weights')}\n"),
    }[place]
    assert "own/it.txt" in text
    (tmp_path / "r.yaml").write_text(text.replace("name: tiny\n", "name: r\n"))
    runs = common.Runs({"recipe": "r.yaml", "data": ""})
    key = {"corpus": "bits.data.source", "questions": "artifacts.scores, lambada: source", "weights": "bits.init"}[
        place
    ]
    words = f"r.yaml: {key}.path: own/it.txt: no such file; a path that is not absolute is looked for in the working folder, "
    with pytest.raises(WorkflowError, match=re.escape(words + str(tmp_path))):
        checks.check_files(runs)
    (made,) = (Path(made) for _, _, made in checks.local_files(runs["r"]))
    for there in (made, tmp_path / "own" / "it.txt"):
        there.parent.mkdir(parents=True)
        there.write_text("Once.")
        checks.check_files(runs)
        there.unlink()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"recipe": None}, "--config recipe=: expected names of config/recipes, or paths"),
        ({"recipe": 3}, "--config recipe=3: expected names"),
        ({"recipe": []}, "--config recipe=[]: expected names"),
        ({"recipe": ["a", None]}, "--config recipe=['a', None]: expected names"),
        ({"data": None}, "--config data=: expected the path of a text; left out, none"),
        ({"data": ["a.txt"]}, "--config data=['a.txt']: expected the path"),
    ],
)
def test_a_value_that_is_none_is_one_message(checks: ModuleType, config: dict[str, Any], said: str) -> None:
    checks.check_keys({"recipe": ["a", "b"], "data": "a.txt"})
    with pytest.raises(WorkflowError, match=f"^{re.escape(said)}"):
        checks.check_keys(config)


def test_the_way_out_of_a_lock_works_where_no_snakefile_is(
    common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of the user's own, with -s, as in a checkout."""
    screen = importlib.import_module("screen")
    for folder, given in (
        (tmp_path, r"-m snakemake -s \S+/workflow/Snakefile --unlock,"),
        (ROOT, "-m snakemake --unlock,"),
    ):
        monkeypatch.chdir(folder)
        screen = importlib.reload(screen)
        words = screen.plain("LockException: it is locked")
        assert re.search(given, words)
        place = re.search(r"-s (\S+)", words)
        assert place is None or Path(place[1]).resolve() == ROOT / "workflow" / "Snakefile"


def test_a_resource_that_a_rule_has_not_is_refused(checks: ModuleType) -> None:
    def check(threads: dict[str, int], **given: list[str]) -> None:
        names = ("train", "evaluate", "sample", "report")
        workflow = SimpleNamespace(
            resource_settings=SimpleNamespace(overwrite_resources=given, overwrite_threads=threads),
            rules=[SimpleNamespace(name=name) for name in names],
        )
        checks.check_execution(workflow, {})

    check({"train": 1}, report=["mem_mb", "runtime"])  # of an executor
    for rule, name, has in (("evaluate", "ranks", "device, gpu"), ("report", "keep", "none of them")):
        with pytest.raises(WorkflowError, match=f"^--set-resources {rule}:{name}: {rule} has {has}; {name} is train's"):
            check({}, **{rule: [name]})
    with pytest.raises(WorkflowError, match=r"^--set-threads evalute: there is no such rule; did you mean evaluate\?"):
        check({"evalute": 1})


def test_questions_are_prepared_before_training_begins() -> None:
    """Of jobs that are ready Snakemake takes the one of higher priority: what cannot be written is known first."""
    text = (ROOT / "workflow" / "rules" / "data.smk").read_text()
    rule = text[text.index("rule prepare_questions:") :].split("\nrule ")[0]
    assert re.search(r"^    priority: 1\b", rule, re.MULTILINE)
    assert "priority" not in (ROOT / "workflow" / "rules" / "train.smk").read_text()
