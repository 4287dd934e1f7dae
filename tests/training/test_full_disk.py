"""pytest tests/training/test_full_disk.py

A disk that is full where the chain alone is written is found at the step whose line it refuses, not at the segment's
end: one line that names file, disk and remedy, what is reached is saved, and the run goes on without a lost or doubled
line.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.machine.execution import Execution
from pipeline.training.segment import Segment
from tests.conftest import run
from tests.evidence.faults import small_disk
from tests.models.patterns import new_trainer, recipe

PAGE = 4096  # bytes that the disk of a chain has
STEPS = 40
Disk = tuple[Path, Callable[[], None]]  # a folder, and what makes room there


def real(stack: ExitStack) -> Disk:
    folder = stack.enter_context(small_disk(PAGE // 1024))
    if folder is None:
        pytest.skip("mounting a tmpfs is not permitted here")

    def make_room() -> None:
        subprocess.run(["mount", "-o", "remount,size=1m", str(folder)], check=True)

    return folder, make_room


@pytest.fixture(params=["mounted", "of a refusal"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A file system with one page, or where none can be mounted a folder whose files are refused to grow over it."""
    with ExitStack() as stack:
        if request.param == "mounted":
            yield real(stack)
            return
        folder, write = tmp_path / "disk", os.write

        def refuse(descriptor: int, content: bytes) -> int:
            room = PAGE - os.fstat(descriptor).st_size
            if not os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{folder}/"):
                return write(descriptor, content)
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, content[:room])  # as much as there is room for, as a disk does

        folder.mkdir()
        monkeypatch.setattr(os, "write", refuse)
        yield folder, lambda: monkeypatch.setattr(os, "write", write)


def first_refused(lines: list[chain.Line]) -> int:
    """The step whose line does not fit a page."""
    return next(i for i in range(len(lines) + 1) if len(chain.whole(lines[:i])) > PAGE)


def segment(until: int, state: Path, path: Path, said: list[str]) -> Segment:
    trainer = new_trainer(recipe(steps=STEPS))
    return Segment(trainer, Execution(rolling=1e9, rolling_steps=7), until, state, said.append, chain_path=path)


@pytest.mark.parametrize("last", [False, True], ids=["on the way", "at the last step"])
def test_a_full_disk_of_the_chain_is_found_at_its_step(disk: Disk, tmp_path: Path, last: bool) -> None:
    folder, make_room = disk
    whole = segment(STEPS, tmp_path / "whole", tmp_path / "whole.tsv", [])
    assert whole.run(lambda: False, lambda line: None)
    refused = first_refused(whole.lines)
    assert 7 < refused < STEPS - 7, "the recipe or the form of a line has changed; choose other STEPS"
    until, reached = (refused, refused) if last else (STEPS, refused + 1)  # ranks share it at the step after
    path, said, seen = folder / "chain.tsv", list[str](), list[int]()
    full = segment(until, tmp_path / "state", path, said)
    words = rf"^{re.escape(str(path))}: no space left on the device mounted at \S+; free some and run again\. .*step {reached} is saved"
    with pytest.raises(UserError, match=words) as found:
        full.run(lambda: False, lambda line: seen.append(line.step))
    assert "\n" not in str(found.value)
    assert seen == list(range(1, reached + 1))
    assert full.rolling.steps()[0] == reached
    assert list(folder.iterdir()) == [], "nothing half written"
    make_room()
    again = segment(until, tmp_path / "state", path, said)
    assert (again.resumed, again.run(lambda: False, lambda line: None)) == (reached, True)
    again.finish(tmp_path / "out.safetensors")
    assert path.read_bytes() == chain.whole(whole.lines[:until])
    assert list(folder.iterdir()) == [path]


def test_a_receipt_that_cannot_be_written_costs_no_step(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The last thing that a segment writes: its rolling checkpoints are removed after it only."""
    common = ("--recipe", tiny["recipe"], "--tokens", tiny["tokens"], "--steps-to", 3, "--rolling-steps", 1)
    places = ("--out", tmp_path / "out", "--chain", tmp_path / "chain.tsv", "--state", tmp_path / "state")
    (tmp_path / "file").touch()
    words = run(
        "-m", "pipeline.train", *map(str, (*common, *places, "--receipt", tmp_path / "file" / "receipt.json")), code=2
    )
    assert f"{tmp_path}/file/receipt.json: a file of that name is in the way of a folder" in words
    words = run("-m", "pipeline.train", *map(str, (*common, *places)))
    assert "resuming from step 2 " in words
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").rglob("*.safetensors"))


def test_ranks_end_together_where_the_chain_has_no_room(tiny: dict[str, Path], tmp_path: Path) -> None:
    text = (
        tiny["recipe"].read_text().replace("steps: 6", f"steps: {STEPS}").replace("checkpoints: [3]", "checkpoints: []")
    )
    (tmp_path / "recipe.yaml").write_text(text.replace("sequences: 32", "sequences: 4"))

    def train(folder: Path, ranks: int, code: int = 0) -> str:
        places = (
            "--out",
            tmp_path / folder.name / "out",
            "--chain",
            folder / "chain.tsv",
            "--state",
            tmp_path / "state",
        )
        common = ("--recipe", tmp_path / "recipe.yaml", "--tokens", tiny["tokens"], "--steps-to", STEPS)
        return run("-m", "pipeline.train", *map(str, (*common, *places, "--ranks", ranks)), code=code)

    train(tmp_path / "whole", 1)
    with ExitStack() as stack:
        folder, make_room = real(stack)
        words = train(folder, 2, code=2)
        refused = first_refused(chain.read(tmp_path / "whole" / "chain.tsv"))
        assert f"{folder}/chain.tsv: no space left on the device mounted at {folder}; free some" in words
        assert f"step {refused + 1} is saved" in words
        assert "Traceback" not in words
        make_room()
        assert f"resuming from step {refused + 1} " in train(folder, 2)
        assert (folder / "chain.tsv").read_bytes() == (tmp_path / "whole" / "chain.tsv").read_bytes()


def test_the_rank_that_knows_the_reason_is_the_one_that_is_named(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Rank 0, however long it takes after the other has nothing more to do."""
    places = ("--out", tmp_path / "out", "--chain", tmp_path / "chain.tsv", "--state", tmp_path / "state")
    common = ("--recipe", tiny["recipe"], "--tokens", tiny["tokens"], "--steps-to", 6, "--ranks", 2)
    words = run("-m", "tests.training.slow_rank", *map(str, (*common, *places)), code=2)
    why = words.index(f"{tmp_path}/chain.tsv: no space left on the device mounted at ")
    assert "step 2 is saved" in words[why:]
    assert words.count("error: ") == 2
    assert why < words.index("error: rank 0 ended with exit code 2; the others were stopped. ")
