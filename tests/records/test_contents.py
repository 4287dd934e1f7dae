"""pytest tests/records/test_contents.py

The JSON files of a whole small run hold what pipeline/data/contents.py and pipeline/records/contents.py say, no key more and no key less.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from pipeline.data import contents as prepared
from pipeline.evidence.gpu_record import Proof
from pipeline.evidence.speed_targets import PREDICTED, Predicted
from pipeline.records import contents, metrics
from tests.conftest import ROOT, run

STRICT: Any = with_config(ConfigDict(strict=True, extra="forbid"))


def check(form: Any, path: Path) -> Any:
    """The content of a file, if it has this form."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for item in content if isinstance(content, list) else [content]:
        TypeAdapter(STRICT(form)).validate_python(item)
    return content


@pytest.fixture(scope="module")
def finished(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, evaluated, sampled, and looked through for spikes by a limit so low that there are some."""
    out = tmp_path_factory.mktemp("finished")
    recipe = out / "tiny.yaml"
    text = tiny["recipe"].read_text().replace("checkpoints: [3]", "checkpoints: []").replace("steps: 6", "steps: 66")
    text = text.replace("sequences: 32", "sequences: 4")
    recipe.write_text(text)
    shared = ["--recipe", str(recipe), "--tokens", str(tiny["tokens"])]
    checkpoint, chain = str(out / "step_000066.safetensors"), str(out / "chain_000066.tsv")
    state = ["--state", str(out / "state")]
    run("-m", "pipeline.train", *shared, "--steps-to", "66", "--out", checkpoint, "--chain", chain, *state)
    run("-m", "pipeline.evaluate", *shared, "--checkpoint", checkpoint, "--out", str(out / "eval_000066.json"))
    run("-m", "pipeline.sample", *shared, "--checkpoint", checkpoint, "--out", str(out / "samples.json"))
    run("-m", "pipeline.spikes", *shared, "--run", str(out), "--z", "0.01")
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over few images, from the generator to an evaluation."""
    out = tmp_path_factory.mktemp("images")
    recipe = out / "patterns.yaml"
    text = (ROOT / "tests" / "recipes" / "patterns.yaml").read_text().replace("checkpoints: [30]", "checkpoints: []")
    recipe.write_text(text.replace("training: 3000", "training: 300").replace("steps: 60", "steps: 6"))
    shared = ["--recipe", str(recipe)]
    checkpoint, chain = str(out / "step_000006.safetensors"), str(out / "chain_000006.tsv")
    run("-m", "pipeline.download", *shared, "--out", str(out))
    run("-m", "pipeline.prepare_images", *shared, "--data", str(out), "--out", str(out))
    shared += ["--tokens", str(out)]
    train = ["--steps-to", "6", "--out", checkpoint, "--chain", chain, "--state", str(out / "state")]
    run("-m", "pipeline.train", *shared, *train)
    run("-m", "pipeline.evaluate", *shared, "--checkpoint", checkpoint, "--out", str(out / "eval_000006.json"))
    return out


def test_files_of_images(images: Path) -> None:
    check(prepared.ImageSource, images / "source.json")
    about = check(prepared.ImageTokens, images / "tokens.json")
    assert (about["train"], about["validation"]) == ({"images": 300}, {"images": 500})
    found = check(contents.Evaluation, images / "eval_000006.json")
    assert set(found) == {"step", "validation", "accuracy"}
    assert found["accuracy"]["share"] == found["accuracy"]["right"] / 500
    for path in (images / "receipts").glob("*.json"):
        check(contents.Receipt, path)


def test_files_of_the_data(tiny: dict[str, Path]) -> None:
    check(prepared.Source, tiny["data"] / "source.json")
    about = check(prepared.Tokens, tiny["tokens"] / "tokens.json")
    assert about["questions"] == 12
    check(prepared.Merges, tiny["tokens"] / "tokenizer.json")
    assert len(check(prepared.Question, tiny["tokens"] / "choices.json")) == 12
    for form, name in ((prepared.Document, "documents.jsonl"), (prepared.QuestionText, "choices.jsonl")):
        lines = (tiny["data"] / name).read_text(encoding="utf-8").splitlines()
        assert lines
        for each in lines:
            TypeAdapter(STRICT(form)).validate_json(each)


def test_files_of_a_run(finished: Path) -> None:
    assert "choices" in check(contents.Evaluation, finished / "eval_000066.json")
    assert check(contents.Sample, finished / "samples.json")
    assert check(contents.Spikes, finished / "spikes.json")["spikes"]
    receipts = sorted((finished / "receipts").glob("*.json"))
    assert len(receipts) == 3
    for path in receipts:
        check(contents.Receipt, path)


def test_lines_of_the_metrics(finished: Path) -> None:
    head, *rows = (json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines())
    TypeAdapter(STRICT(metrics.Head)).validate_python(head)
    assert len(rows) == 66
    for row in rows:
        TypeAdapter(STRICT(metrics.Row)).validate_python(row)


def test_evidence_has_its_form() -> None:
    check(Predicted, PREDICTED)
    proofs = [path for path in (ROOT / "docs" / "evidence").glob("nvidia-*.json") if '"parts"' in path.read_text()]
    assert proofs
    for path in proofs:
        check(Proof, path)


def test_a_key_too_many_or_too_few_is_seen(tiny: dict[str, Path], tmp_path: Path) -> None:
    content = json.loads((tiny["data"] / "source.json").read_text(encoding="utf-8"))
    for wrong in (
        content | {"host": "x"},
        {k: v for k, v in content.items() if k != "bytes"},
        content | {"bytes": "1"},
    ):
        (tmp_path / "source.json").write_text(json.dumps(wrong))
        with pytest.raises(ValidationError):
            check(prepared.Source, tmp_path / "source.json")
