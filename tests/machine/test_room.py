"""pytest tests/machine/test_room.py

Room on disks is asked for before training, and a signal for a checkpoint is noted once.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cuda_ops.errors import UserError
from pipeline.machine.execution import Execution
from pipeline.machine.room import check_room, check_writable, lacking
from pipeline.machine.stops import ASKING, Stops
from pipeline.recipe import cost, load_recipe
from pipeline.train import check_disk
from tests.conftest import ROOT
from tests.evidence.faults import small_disk


def test_folders_of_one_disk_share_its_room(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    below = tmp_path / "not" / "there" / "yet"
    assert lacking({below: free // 4, tmp_path: free // 4}) is None
    assert lacking({below: free, tmp_path: free}) is not None
    with pytest.raises(UserError, match=r"no room for it: .* has .* [GM]B free, .* [GM]B are needed; make some"):
        check_room({below: 2 * free}, "it", "make some")
    assert not below.exists()


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_writable([tmp_path, tmp_path / "not" / "there"], "elsewhere")
    with pytest.raises(UserError, match=r"file: a part of the path is a file, not a folder; elsewhere"):
        check_writable([tmp_path, tmp_path / "file" / "below"], "elsewhere")
    with small_disk(64) as disk:  # who may not mount is not root, whom a mode keeps from writing
        place, mode = disk or tmp_path, tmp_path.stat().st_mode
        if disk:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        tmp_path.chmod(0o555)
        words = "the file system is read-only" if disk else "permission denied"
        with pytest.raises(UserError, match=rf"^{place}: {words}; .*; give other --out$"):
            check_writable([place / "runs" / "own"], "give other --out")
        tmp_path.chmod(mode)


def test_snakemake_says_that_its_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it ends in a traceback itself; the folder's own rights are those of the test above."""
    from snakemake.exceptions import WorkflowError

    monkeypatch.syspath_prepend(ROOT / "workflow")
    checks = importlib.import_module("checks")
    monkeypatch.chdir(tmp_path)
    checks.check_folder()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(WorkflowError, match=rf"^{tmp_path}: Snakemake cannot write .*snakemake -s {ROOT}/Snakefile"):
        checks.check_folder()


WORKFLOW = """
import signal, subprocess, sys
sys.path.insert(0, "workflow")
import stops
stops.GRACE = 0.1
stops.pass_stops_on()
stage = subprocess.Popen([sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(3600)", "pipeline.x"],
                         start_new_session=True)  # a signal to the parent alone
try:
    stage.wait()
except KeyboardInterrupt:
    print("interrupted, stage", stage.wait(300))
"""


def test_an_interrupt_of_snakemake_alone_reaches_the_stage() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKFLOW], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=400)[0] == f"interrupted, stage {-signal.SIGTERM}\n"


def test_a_segment_that_would_not_fit_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(ROOT / "config" / "recipes" / "gpt2_1558m.yaml")
    size = cost.checkpoint_bytes(recipe.bits)
    assert size == 18_692_236_800  # 1558M: weights and two moments, fp32

    def begins(free: int, execution: Execution, until: int = 8000) -> bool:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        try:
            check_disk(recipe, execution, until, tmp_path, tmp_path / "state")
        except UserError:
            return False
        return True

    # One that stays, two rolling ones, and one more while it is written.
    assert not begins(4 * size - 1, Execution())
    with pytest.raises(UserError, match=r"checkpoints up to step 8000: .* are needed; .*a smaller --keep \(now 2\)"):
        check_disk(recipe, Execution(), 8000, tmp_path, tmp_path / "state")
    assert begins(4 * size, Execution())
    assert "the 4 checkpoints still to come will not fit" in capsys.readouterr().err
    assert begins(7 * size, Execution())
    assert capsys.readouterr().err == ""
    assert not begins(5 * size, Execution(keep=4))
    # Majors at 8001 .. 16000 by 2000: four more.
    assert not begins(8 * size - 1, Execution(major=2000), 16000)
    assert begins(8 * size, Execution(major=2000), 16000)
    (tmp_path / "state").mkdir()
    for step in (100, 200):  # rolling ones that are there already, of a run that goes on
        (tmp_path / "state" / f"step_{step:06d}.safetensors").touch()
    assert begins(2 * size, Execution())


def test_a_signal_asks_for_one_checkpoint() -> None:
    before = {number: signal.getsignal(number) for number in (*ASKING, signal.SIGUSR1)}
    try:
        stops = Stops()
        assert not stops.saves()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert [stops.saves(), stops.saves()] == [True, False]
        assert stops.number == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
