"""pytest tests/evidence/test_faults.py

A slice of tests.evidence.faults: kills of all ranks and of one, stops, damaged files of the rolling state, a full
disk. The bits must be those of an undisturbed run, finished files stay, and nothing is left behind. `make evidence`
does 200 faults.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
from pathlib import Path

import pytest

from cuda_ops.errors import UserError
from pipeline.base.files import write_bytes
from tests.conftest import run


def test_faults_lose_no_bit_and_no_file(tiny: dict[str, Path], tmp_path: Path) -> None:
    flags = (
        "--faults",
        "10",
        "--steps",
        "40",
        "--places",
        "0.5",
        "--tokens",
        str(tiny["tokens"]),
        "--out",
        str(tmp_path),
    )
    run("-m", "tests.evidence.faults", *flags)  # a process of its own: it forks, and OpenMP must not have run before
    found = json.loads((tmp_path / "faults.json").read_text())
    assert found["faults"] >= 10
    assert found["runs_with_the_undisturbed_bits"] == found["runs"]
    assert found["files_left_behind"] == []
    assert found["damage"]["resumed with the right bits"] >= 14
    if os.geteuid() == 0 and "skipped" not in found["full_disk"]:
        assert set(found["full_disk"]) == {"rolling checkpoint", "last checkpoint", "token shards"}


def test_a_full_disk_keeps_the_earlier_file(tmp_path: Path) -> None:
    """Where no disk can be mounted: a limit on the size of files gives the same error."""
    path = tmp_path / "file"
    write_bytes(path, b"earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match="no space left"):
            write_bytes(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    stale, living, other = (
        tmp_path / f".{name}.{digit * 32}.tmp" for name, digit in (("a", "0"), ("a", "1"), ("ab", "2"))
    )
    for path in (stale, living, other):
        path.write_bytes(b"half")
    with open(living, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_bytes(tmp_path / "a", b"whole")
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a", living, other])


def test_a_damaged_earlier_checkpoint_is_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    """A finished artefact is never trusted blindly: the next segment names the file and does not start."""
    common = ("--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--state", str(tmp_path / "state"))
    first = tmp_path / "step_000003.safetensors"
    run("-m", "pipeline.train", *common, "--steps-to", "3", "--out", str(first), "--chain", str(tmp_path / "chain.tsv"))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 16
    first.write_bytes(content)
    second = ("--previous", str(first), "--steps-to", "6", "--out", str(tmp_path / "b"), "--chain", str(tmp_path / "c"))
    assert f"error: {first}: damaged" in run("-m", "pipeline.train", *common, *second, code=2)
    assert not (tmp_path / "b").exists()
