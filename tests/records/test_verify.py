"""pytest tests/records/test_verify.py

verify on real files: published, not published, altered since, and what is wrong with its flags.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.base import chain
from pipeline.recipe import load_recipe
from pipeline.records import digests as records
from pipeline.records.catalogue import digested
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


def test_a_run_that_nobody_published_is_held_against_its_own_list(tiny: dict[str, Path], finished: Path) -> None:
    assert verify(finished, tiny, "--brief").strip().endswith("tiny.json)")
    run("-m", "pipeline.digest", "--recipe", str(tiny["recipe"]), cwd=finished)
    output = verify(finished, tiny)
    assert "12 digests, none published yet" in output
    assert "all 12 digests equal the run's own digests.json" in output
    verify(finished, tiny, "--require-published", code=1)
    samples = finished / "results" / "runs" / "tiny" / "samples.json"
    samples.write_text("[1]\n")
    report = finished / "verdict.json"
    output = verify(finished, tiny, "--json", str(report), code=1)
    assert (
        "1 of 12 digests do not equal the run's own digests.json; the first is sample/samples.json (DIFFERS)" in output
    )
    content = json.loads(report.read_text())
    assert (content["published"], content["equal"], len(content["artefacts"])) == (False, False, 12)
    assert [item["artefact"] for item in content["artefacts"] if item["verdict"] != "equal"] == ["samples.json"]
    samples.unlink()
    assert "samples.json: missing; run snakemake" in verify(finished, tiny, code=2)


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
