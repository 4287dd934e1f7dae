"""pytest tests/workflow/test_odd_inputs.py

Odd inputs of commands: one message that names what was given and what is allowed, before any work, and no traceback.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from cuda_ops.errors import UserError
from pipeline import follow
from pipeline.import_weights import bring
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.records import metrics
from pipeline.training.trainer import Trainer

HEAD = {"recipe": "r", "steps": 5, "unit": "token", "units": 1}
ROW = {"step": 1, "loss": 2.5, "lr": 1e-3, "norm": 1.0, "seconds": 1, "per_second": 10.0, "at": 1.0}


@pytest.fixture(scope="module")
def place(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe's initial state, a file, an empty folder and a run."""
    folder = tmp_path_factory.mktemp("odd")
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(), Ranks(), tiny["tokens"])
    trainer.initialise()
    trainer.save(folder / "step_000000.safetensors")
    (folder / "file").write_text("text")
    (folder / "folder").mkdir()
    (folder / "steps.yaml").write_text(tiny["recipe"].read_text().replace("steps: 6", "steps: 99999999999999999999"))
    return folder


CHECKPOINT = "pipeline.sample --recipe {R} --tokens {T} --checkpoint {P}/step_000000.safetensors --prompt Once "
REPLAY = "pipeline.replay --recipe {R} --tokens {T} --step 2 "
COMPARE = "pipeline.compare {P} {P} --recipe {R} "
CASES = {
    "pipeline.sample --recipe {R} --tokens {T} --checkpoint {P}": "{P}: a folder; name a checkpoint in it",
    "pipeline.sample --recipe {R} --tokens {T} --checkpoint /dev/null": "/dev/null: no such checkpoint",
    CHECKPOINT + "--top-k 99999999999999999999": "--top-k 99999999999999999999: Input should be less than 2147483648",
    CHECKPOINT + "--draws 1000000000000": "--draws 1000000000000: expected 1 to 1,000,000",
    CHECKPOINT + "--draws 0": "--draws 0: expected 1 to 1,000,000",
    CHECKPOINT + "--out {P}": "{P}: is a folder, not a file; name a file",
    CHECKPOINT + "--out {P}/file/x.json": "{P}/file: a part of the path is a file, not a folder; name another file",
    COMPARE + "--json {P}": "{P}: is a folder, not a file; name a file",
    COMPARE + "--html {P}/file/x.html": "{P}/file: a part of the path is a file",
    COMPARE + "--code-a {P}/nope": "--code-a {P}/nope: no such folder",
    COMPARE + "--build-b {P}/file": "--build-b {P}/file: no such folder",
    COMPARE + "--device-b tpu": "--device-b tpu: neither cpu nor cuda",
    REPLAY + "--run {P}/file": "--run {P}/file: no such folder",
    REPLAY + "--out {P}": "{P}: is a folder, not a file",
    REPLAY + "--trace {P}/file/t": "{P}/file: a part of the path is a file",
    REPLAY + "--further 2": "--further 2: what it sees is written by --trace FILE alone",
    REPLAY + "--checkpoint {P}/folder": "{P}/folder: a folder; name a checkpoint in it",
    "pipeline.verify --recipe {R} --run {P}/nope": "--run {P}/nope: no such folder",
    "pipeline.spikes --recipe {R} --run {P}/nope": "--run {P}/nope: no such folder",
    "pipeline.report --recipe {R} --run {P}/nope": "--run {P}/nope: no such folder",
    "pipeline.digest --recipe {R} --run {P}/nope": "--run {P}/nope: no such folder",
    "pipeline.bless --recipe {R} --run {P}/nope": "--run {P}/nope: no such folder",
    "pipeline.recipe.__main__ {P}/steps.yaml": "bits.steps: Input should be less than 1099511627776, given 99999999999999999999",
    "pipeline.verify --recipe {R} --run {P} --json {P}": "{P}: is a folder, not a file",
    "pipeline.prepare_text --recipe {R} --against {P}": "--against {P}: only beside --compare PINS",
    "pipeline.own_text --recipe {R} --data {P}/folder": "data={P}/folder: not a file; name one",
    "pipeline.follow --once {P}/file": "{P}/file: a file; name the folder of a run",
    "pipeline.follow --once {P}/folder": "{P}/folder/metrics.jsonl: no such file, or not of a run",
}  # fmt: skip


@pytest.mark.parametrize("command", CASES)
def test_odd_inputs_are_one_message(
    command: str, place: Path, tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"P": place, "R": tiny["recipe"], "T": tiny["tokens"]}
    module, *arguments = command.format_map(named).split()
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(UserError) as found:
        importlib.import_module(module).main()
    assert CASES[command].format_map(named) in str(found.value)
    assert "\n" not in str(found.value)


def test_imported_weights_never_join_another_run(
    place: Path, tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "results" / "runs" / "taken"
    monkeypatch.chdir(tmp_path)
    weights = place / "step_000000.safetensors"
    for _ in range(2):  # the same weights again are no other run
        bring(weights, tiny["recipe"], "taken")
    (run / "step_000003.safetensors").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        UserError, match="--name taken: results/runs/taken holds the checkpoints of another run; choose"
    ):
        bring(weights, tiny["recipe"], "taken")
    assert sorted(tmp_path.rglob("*")) == before
    bring(weights, tiny["recipe"], "other")


@pytest.mark.parametrize("odd", [
    {"loss": "a"}, {"loss": float("nan")}, {"at": float("inf")}, {"step": "1"}, {"lr": None}, {"norm": [1]},
])  # fmt: skip
def test_what_is_no_line_of_a_run_is_passed_over(tmp_path: Path, odd: dict[str, object]) -> None:
    path = tmp_path / "metrics.jsonl"
    short = {"step": 2}
    path.write_text("\n".join(map(json.dumps, [HEAD, ROW, ROW | odd, short, [1], 5, HEAD | {"steps": "x"}])))
    assert list(metrics.read(path)) == [HEAD, ROW]
    assert "step 1 of 5  loss 2.5000" in follow.shown(path, 60, 4, now=2.0)[0]
