"""pytest tests/records/test_verify.py

verify on real files: published, not published, altered since, and what is wrong with its flags.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydantic import ConfigDict, TypeAdapter, with_config

from pipeline.base import chain
from pipeline.recipe import load_recipe
from pipeline.records import digests as records
from pipeline.records.catalogue import digested
from pipeline.records.contents import Compared, Verification
from tests.conftest import run


@pytest.fixture
def finished(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a run of tiny: real corpus, tokens and chains; checkpoints of one tensor."""
    import torch

    from pipeline.base.checkpoint import Checkpoint, save
    from pipeline.recipe import paths

    recipe = load_recipe(tiny["recipe"])
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny["data"], paths.data_dir(recipe))
    shutil.copytree(tiny["tokens"], paths.tokens_dir(recipe), dirs_exist_ok=True)
    folder, link = paths.run_dir(recipe), chain.START
    for first, last in ((1, 3), (4, 6)):
        lines = []
        for step in range(first, last + 1):
            lines.append(chain.Line(step, 1.0 / step, 0.1, 1.0, step).linked(link))
            link = lines[-1].link
        chain.write(folder / paths.chain_name(last), lines)
        save(folder / paths.checkpoint_name(last), Checkpoint(last, "", link, {"w": torch.full((2,), float(last))}))
        (folder / paths.eval_name(last)).write_text("{}\n")
    (folder / paths.SAMPLES).write_text("[]\n")
    return tmp_path


def verify(folder: Path, tiny: dict[str, Path], *flags: str, code: int = 0) -> str:
    return run("-m", "pipeline.verify", "--recipe", str(tiny["recipe"]), *flags, cwd=folder, code=code)


def verdict(path: Path) -> tuple[list[Compared], bool, bool, bool, bool]:
    """The rows of a JSON of verify, and published, equal, required, passed."""
    content = json.loads(path.read_text())
    TypeAdapter(with_config(ConfigDict(strict=True, extra="forbid"))(Verification)).validate_python(content)
    return content["artefacts"], *(content[name] for name in ("published", "equal", "required", "passed"))


def test_a_run_that_nobody_published_is_held_against_its_own_list(tiny: dict[str, Path], finished: Path) -> None:
    assert verify(finished, tiny, "--brief").strip().endswith("tiny.json)")
    run("-m", "pipeline.digest", "--recipe", str(tiny["recipe"]), cwd=finished)
    output = verify(finished, tiny)
    assert "12 digests, none published yet" in output
    assert "all 12 digests equal the run's own digests.json" in output
    report = finished / "verdict.json"
    output = verify(finished, tiny, "--require-published", "--json", str(report), code=1)
    assert "--require-published asks for " in output
    assert f"python -m pipeline.bless --recipe {tiny['recipe']} publishes a run" in output
    assert verdict(report)[1:] == (False, True, True, False)
    verify(finished, tiny, "--json", str(report))
    assert verdict(report)[1:] == (False, True, False, True)
    samples = finished / "results" / "runs" / "tiny" / "samples.json"
    samples.write_text("[1]\n")
    output = verify(finished, tiny, "--json", str(report), code=1)
    assert (
        "1 of 12 digests do not equal the run's own digests.json; the first is sample/samples.json (DIFFERS)" in output
    )
    rows, *said = verdict(report)
    assert (said, len(rows)) == ([False, False, False, False], 12)
    assert [item["artefact"] for item in rows if item["verdict"] != "equal"] == ["samples.json"]


def test_what_is_not_there_or_damaged_is_a_row_and_hides_no_other(tiny: dict[str, Path], finished: Path) -> None:
    """Corpus, chain and samples missing, a checkpoint cut, one altered: each has a row, and all others are equal."""
    from pipeline.recipe import paths

    recipe, report = load_recipe(tiny["recipe"]), finished / "verdict.json"
    folder = paths.run_dir(recipe)
    run("-m", "pipeline.digest", "--recipe", str(tiny["recipe"]), cwd=finished)
    for path in (paths.data_dir(recipe) / "documents.jsonl", folder / "chain_000003.tsv", folder / "samples.json"):
        path.unlink()
    cut, evaluation = folder / "step_000003.safetensors", folder / "eval_000006.json"
    cut.write_bytes(cut.read_bytes()[:-1])
    evaluation.write_text("{ }\n")
    output = verify(finished, tiny, "--json", str(report), code=1)
    rows, *said = verdict(report)
    assert said == [False, False, False, False]
    assert {row["artefact"]: row["verdict"] for row in rows if row["verdict"] != "equal"} == {
        "documents.jsonl": "MISSING", "step_000003.safetensors": "DIFFERS", "chain_000003.tsv": "MISSING",
        "eval_000006.json": "DIFFERS", "samples.json": "MISSING",
    }  # fmt: skip
    assert len(rows) == 12
    assert [row["artefact"] for row in rows if row["why"].startswith(str(cut))] == [cut.name]
    assert f"documents.jsonl: missing; python -m pipeline.download --recipe {tiny['recipe']} makes it\n" in output
    assert f"{cut}: " in output
    assert "documents.jsonl: missing;" in run(
        "-m", "pipeline.digest", "--recipe", str(tiny["recipe"]), cwd=finished, code=2
    )


def test_a_run_that_never_was_has_rows_of_what_is_missing(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = verify(tmp_path, tiny, code=1)
    assert output.count("MISSING") == 11, "all but the recipe's own id"
    assert "11 of their files are missing or damaged" in output


def test_published_elsewhere(tiny: dict[str, Path], finished: Path) -> None:
    expected = finished / "expected"
    expected.mkdir()
    recipe = load_recipe(tiny["recipe"])
    found = {entry.key: entry.digest for entry in records.entries(recipe)}
    assert set(found) == {"recipe/bits", *(item.key for item in digested(recipe))}
    (expected / "tiny.json").write_text(json.dumps(found))
    output = verify(finished, tiny, "--expected", str(expected), "--require-published", "--brief")
    assert output == "tiny: all 12 digests equal the published ones\n"
    (expected / "tiny.json").write_text(json.dumps(found | {"train/more": "0" * 64}))
    assert "the first is train/more (MISSING)" in verify(finished, tiny, "--expected", str(expected), code=1)


def test_mistakes(tiny: dict[str, Path], finished: Path) -> None:
    assert "--expected /nope: no such folder" in verify(finished, tiny, "--expected", "/nope", code=2)
    for content, said in (("[1]", "expected an object"), ("{", "not JSON")):
        (finished / "tiny.json").write_text(content)
        assert said in verify(finished, tiny, "--expected", str(finished), code=2)
