"""pytest tests/machine/test_files.py

Unfinished files belong to who holds their lock; what the disk refuses is one line; a stage's words survive their
readers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cuda_ops.errors import UserError, refusal
from pipeline.base import files
from pipeline.base.files import atomic_write, write_bytes
from tests.conftest import ROOT, run

WRITER = """
import sys, time
from pathlib import Path
from pipeline.base.files import atomic_write
who, folder = sys.argv[1:]
with atomic_write(Path(folder) / 'mix.txt') as file:
    for part in range(3):
        file.write(who.encode() * 1000)
        file.flush()
        print('part', flush=True)
        sys.stdin.readline()
"""


def start(*arguments: str, code: str = WRITER, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}, **more,  # type: ignore[call-overload]
    )  # fmt: skip


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdout.readline()
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_writers_of_one_path_never_mix(tmp_path: Path) -> None:
    """Each has a file of its own, whatever process number a container gives it; the last to end is what is there, whole."""
    slow, fast = start("A", str(tmp_path)), start("B", str(tmp_path))
    go_on(slow)
    for _ in range(3):
        go_on(fast)
    assert fast.wait(400) == 0
    assert (tmp_path / "mix.txt").read_bytes() == b"B" * 3000
    for _ in range(2):
        go_on(slow)
    assert slow.wait(400) == 0
    assert (tmp_path / "mix.txt").read_bytes() == b"A" * 3000
    assert [path.name for path in tmp_path.iterdir()] == ["mix.txt"]


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_kept(tmp_path: Path) -> None:
    killed, living = start("A", str(tmp_path)), start("B", str(tmp_path))
    go_on(killed)
    go_on(living)
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.glob(".mix.txt.*.tmp"))) == 2
    foreign = tmp_path / ".mix.txt.notes.tmp"  # not a name of ours
    foreign.write_bytes(b"mine")
    write_bytes(tmp_path / "mix.txt", b"whole")
    assert len(list(tmp_path.glob(".mix.txt.*.tmp"))) == 2
    assert foreign.exists()
    for _ in range(2):
        go_on(living)
    assert living.wait(400) == 0
    assert (tmp_path / "mix.txt").read_bytes() == b"B" * 3000


def test_names_cannot_be_guessed_and_nothing_is_written_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for _ in range(3):
        with atomic_write(tmp_path / "x"):
            (unfinished,) = tmp_path.glob(".x.*.tmp")
            assert re.fullmatch(r"\.x\.[0-9a-f]{32}\.tmp", unfinished.name)
            names.add(unfinished.name)
    assert len(names) == 3
    secret = tmp_path / "secret"
    secret.write_bytes(b"kept")
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    (tmp_path / f".x.{'0' * 32}.tmp").symlink_to(secret)
    with pytest.raises(UserError, match="in the way"), atomic_write(tmp_path / "x") as file:
        file.write(b"lost")
    assert secret.read_bytes() == b"kept"


def test_a_file_taken_between_creation_and_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = files._lock
    taken: list[Any] = []

    def late(descriptor: int, without: bool = True) -> bool:
        if not taken:
            taken.append(1)
            for path in tmp_path.glob(".x.*.tmp"):
                path.unlink()  # as another writer does, to whom it looks like a dead one's
        return lock(descriptor, without)

    monkeypatch.setattr(files, "_lock", late)
    write_bytes(tmp_path / "x", b"whole")
    assert taken
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_without_locks_files_are_written_and_nobody_elses_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    other = tmp_path / f".x.{'a' * 32}.tmp"
    other.write_bytes(b"half")
    write_bytes(tmp_path / "x", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "x"]


def test_names_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    for name in ("x" * 255, "\N{GREEK SMALL LETTER ALPHA}" * 127):
        write_bytes(tmp_path / name, b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    with pytest.raises(UserError, match=r"a name is too long for this file system.*choose a shorter one"):
        write_bytes(tmp_path / ("x" * 256), b"")
    with pytest.raises(UserError, match="a name is too long"):
        write_bytes(tmp_path / ("x" * 256) / "y", b"")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
def test_what_a_disk_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*args: object, **kwargs: object) -> int:
        raise OSError(number, os.strerror(number), str(args[0]))

    write_bytes(tmp_path / "x", b"earlier")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path / 'x'))}: .*Nothing earlier was lost"):
        write_bytes(tmp_path / "x", b"later")
    assert (tmp_path / "x").read_bytes() == b"earlier"


def test_a_mistake_of_the_program_is_no_refusal() -> None:
    assert refusal(OSError("a mistake")) is None
    assert refusal(OSError(errno.EINVAL, "x", "y")) is None


def test_of_a_copy_the_file_that_is_written_is_named(tmp_path: Path) -> None:
    """As shutil.copyfile raises it, with the file that is read first."""
    read, written = str(tmp_path / "a"), str(tmp_path / "b")
    words = refusal(OSError(errno.ENOSPC, "full", read, None, written))
    assert words is not None
    assert words.startswith(f"{written}: no space left on the device mounted at /")


# ---------------------------------------------------------------- what a stage says

SAYS = """
import os, sys
from cuda_ops.errors import UserError, exit_on_user_error
def main():
    for number in range(20000):
        print('line', number)
    print('aside', file=sys.stderr)
    os.write(1, b'from C\\n')
    if 'fail' in sys.argv:
        raise UserError('mend it')
    if 'path' in sys.argv:
        open('/nowhere/at/all')
    if 'mistake' in sys.argv:
        raise ValueError('ours')
    if 'interrupt' in sys.argv:
        raise KeyboardInterrupt
exit_on_user_error(main)
"""


def says(*arguments: str, reads: int | None = None) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; with reads, stdout's reader ends after so many bytes."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAYS, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    if reads is not None:
        process.stdout.read(reads)
        process.stdout.close()
        assert process.stderr
        errors = process.stderr.read()
        return process.wait(400), "", errors
    output, errors = process.communicate(timeout=400)
    return process.returncode, output, errors


def test_a_closed_pipe_is_one_line_and_no_traceback() -> None:
    code, _, errors = says(reads=1)
    assert code == 2
    assert errors == "error: the reader of stdout has ended before this command; --log FILE keeps what is said\n"


def test_the_help_of_every_command_lists_the_log() -> None:
    said = run("-m", "pipeline.verify", "--help")
    assert "--require-published" in said
    assert "--log FILE  " in said
    assert "--log" not in run("-m", "pipeline.verify", code=2), "the control: an error shows no help"


def test_the_log_holds_everything_and_outlives_the_reader(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "a.log"
    code, _, errors = says("--log", str(log), reads=1)
    assert (code, errors) == (0, "aside\n")
    lines = log.read_text().splitlines()
    assert len(lines) == 20002
    assert {"line 0", "line 19999", "aside", "from C"} <= set(lines)
    code, output, errors = says(f"--log={log}")
    assert code == 0
    assert output.splitlines()[-1] == "line 19999"
    assert errors == "aside\n"


def test_a_full_disk_costs_the_log_alone_and_is_said_once() -> None:
    program = SAYS.replace(
        "    os.write(1, b'from C\\n')\n", ""
    )  # which goes to the log's descriptor and to nothing else
    assert program != SAYS
    command = [sys.executable, "-c", program, "--log", "/dev/full"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "aside\n")
    assert len(done.stdout.splitlines()) == 20001, "all lines and one warning"
    said = (
        "warning: /dev/full: no space left on the device mounted at /dev; free some and run again; what is said from "
    )
    assert done.stdout.count(f"{said}here on is missing there\n") == 1


def test_a_full_disk_of_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SAYS], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "no space left on the device" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_ends_a_stage_is_in_its_log_too(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert says("fail", "--log", str(log))[0] == 2
    assert log.read_text().endswith("\nerror: mend it\n")
    assert says("mistake", "--log", str(log))[0] == 1
    assert log.read_text().endswith("ValueError: ours\n")
    assert says("--log")[0] == 2


def test_ends_have_one_line() -> None:
    code, _, errors = says("path")
    assert (code, errors.splitlines()[-1]) == (2, "error: /nowhere/at/all: no such file or folder")
    assert "Traceback" not in errors
    code, _, errors = says("interrupt")
    assert (code, errors.splitlines()[-1]) == (130, "stopped by SIGINT")
    code, _, errors = says("mistake")
    assert code == 1  # the control: a mistake of the program keeps its traceback
    assert "Traceback" in errors


SNAKEMAKE = """
import subprocess
subprocess.run(['bash', '-c', '"$PYTHON" -c "$CODE" | cat; true'])
"""
STAGE = """
import os, sys, time
from pipeline.machine.stops import Stops, snakemake, stop_with_snakemake
stops = Stops()
stop_with_snakemake()
print(os.getpid(), snakemake() is not None, flush=True)
for _ in range(4000):
    time.sleep(0.1)
    if stops.number:
        open(os.environ['SIGN'], 'w').write(str(stops.number))
        break
"""


@pytest.mark.parametrize("name", ["snakemake", "anything"])
def test_no_stage_outlives_snakemake_and_others_may_leave_it_running(tmp_path: Path, name: str) -> None:
    """kill -9 of what started it, with a shell and a pipe between; the control is a starter of another name."""
    starter, sign = tmp_path / name, tmp_path / "sign"
    starter.write_text(SNAKEMAKE)
    process = subprocess.Popen(
        [sys.executable, str(starter)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CODE": STAGE, "SIGN": str(sign), "PYTHON": sys.executable},
    )  # fmt: skip
    assert process.stdout
    pid, found = process.stdout.readline().split()
    assert found == str(name == "snakemake")
    process.kill()
    process.wait()
    deadline = time.monotonic() + (400 if name == "snakemake" else 1)
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sign.exists() == (name == "snakemake")
    if name != "snakemake":
        os.kill(int(pid), signal.SIGKILL)
