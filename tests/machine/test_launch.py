"""pytest tests/machine/test_launch.py

Ranks of program.py under the launcher: without a network and in a cluster's environment; a rank that raises, is
killed, stops or hangs is named and the others end, also where the collectives behave as NCCL's (its stand-in:
program.py); several machines; what ends a run. No time is measured: what should end would otherwise go on for an
hour.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.machine.beats import Beat, Judge, Limits
from pipeline.machine.ranks import LOST
from tests.conftest import ROOT, run
from tests.forks import forking_python
from tests.ports import free_port

PROGRAM = ["-m", "tests.machine.program"]
FOREIGN = {
    "RANK": "0", "WORLD_SIZE": "64", "LOCAL_RANK": "5", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "nowhere.invalid",
    "MASTER_PORT": "1", "GLOO_SOCKET_IFNAME": "ib7",
}  # fmt: skip
ALONE = """
import fcntl, os, socket, struct, sys
socket.sethostname('no-such-host')
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
    fcntl.ioctl(any, 0x8914, struct.pack('16sh14x', b'lo', 1))  # SIOCSIFFLAGS: up
os.execv(sys.argv[1], sys.argv[1:])
"""


def start(*flags: object, env: dict[str, str] | None = None, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    python = [*before, sys.executable] if before else [forking_python()]
    return subprocess.Popen(
        [*python, *PROGRAM, *map(str, flags)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
    )  # fmt: skip


def ends(process: subprocess.Popen[str], code: int) -> str:
    """What it said, once it has ended with the code; no process of it is left."""
    output, _ = process.communicate(timeout=400)
    assert process.returncode == code, output[-3000:]
    return output


def test_two_ranks_without_a_network_in_a_clusters_environment() -> None:
    """Own network and host name: only the loopback is up and the name resolves nowhere."""
    apart = ("unshare", "--net", "--uts")
    before: tuple[str, ...] = ()
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode == 0:
        before = (*apart, sys.executable, "-c", ALONE)
    output = ends(start("--ranks", 2, env=FOREIGN, before=before), 0)
    assert "note: RANK=0, WORLD_SIZE=64 in the environment not followed: --ranks 2 starts its own" in output
    assert "2 ranks: gloo, CPUs of 1 machine" in output
    assert {"rank 0 of 2, lo, begins", "rank 1 done", "rank 0 done"} <= set(output.splitlines())


def test_ranks_that_somebody_else_starts() -> None:
    given = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [start("--ranks", 2, env=given | {"RANK": str(rank)}) for rank in range(2)]
    for rank, process in enumerate(processes):
        assert f"rank {rank} done" in ends(process, 0)


@pytest.mark.parametrize("collectives", [(), ("--nccl",)], ids=["gloo", "as NCCL"])
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("raise", 1, "error: rank 1 ended with exit code 1; the others were stopped. It was at: step 3. "),
        ("user", 2, "error: rank's own words"),
        ("kill", 137, "error: rank 1 ended by signal SIGKILL; the others were stopped. It was at: step 3. "),
        (
            "kill within an exchange",
            137,
            "error: rank 1 ended by signal SIGKILL; the others were stopped. It was at: step 3, exchange",
        ),
        ("stop", 137, "error: rank 1 is stopped (SIGSTOP) since "),
        ("hang", 137, "error: rank 1 hangs: nothing computed for "),
    ],
    ids=["raise", "user", "kill", "kill within an exchange", "stop", "hang"],
)
def test_a_rank_that_fails_is_named_and_the_others_end(
    fault: str, code: int, words: str, collectives: tuple[str, ...]
) -> None:
    output = ends(start("--ranks", 2, "--fault", fault, *collectives), code)
    assert words in output
    assert "rank 0 done" not in output
    assert output.count("error: rank ") == 1
    assert output.count("Traceback") == (fault == "raise")  # of the guilty rank alone


def test_ending_the_group_by_habit_hides_the_cause() -> None:
    """The control of the stand-in: with the group ended in a `finally`, the rank that raised hangs there before it can say why."""
    output = ends(start("--ranks", 2, "--fault", "raise", "--nccl", "--close-by-habit"), 137)
    assert "a mistake of the program" not in output
    assert "hangs" in output


DESTROYED = """
import os
from cuda_ops.errors import Ending, Fatal, exit_on_user_error
class Pinned:
    def __del__(self):
        os.write(2, b'a destructor ran')
def main():
    buffer = Pinned()
    raise {raised}
Ending.at_once = {at_once}
exit_on_user_error(main)
"""


@pytest.mark.parametrize(
    ("raised", "at_once", "code"),
    [("Fatal('the GPU stopped')", False, 2), ("OSError(28, 'full')", True, 2), ("ValueError('a mistake')", True, 1)],
)
def test_no_destructor_runs_after_a_fatal_error(raised: str, at_once: bool, code: int) -> None:
    """Not even of what only the error's frames hold: freeing pinned memory aborts after a device error."""
    output = run("-c", DESTROYED.format(raised=raised, at_once=at_once), code=code)
    assert "destructor" not in output
    assert "stopped" in output or "no space left" in output or "a mistake" in output


@pytest.mark.parametrize("step", [1, 9])
def test_a_rank_that_computes_without_an_end_is_named(step: int) -> None:
    """In the first step too, whose length is known as soon as another rank has done it."""
    output = ends(start("--ranks", 2, "--fault", "spin", "--at", step, "--steps", 10), 137)
    assert "error: rank 1 hangs: it computes without an end for " in output
    assert 'program.py", line' in output  # its stack


def test_a_long_checkpoint_is_no_hang() -> None:
    output = ends(start("--ranks", 2, "--fault", "save"), 0)
    assert {"rank 0 done", "rank 1 done"} <= set(output.splitlines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_of_every_kind_is_passed_on(number: signal.Signals) -> None:
    process = start("--ranks", 2, "--steps", 100000, "--pause", 0.05)
    assert process.stdout
    while "begins" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    output = ends(process, 128 + number)
    assert output.count("stopped after step") <= 2  # one rank each; a rank that had not begun says nothing
    assert "error" not in output


# ---------------------------------------------------------------- several machines


def test_two_machines_meet_and_one_that_ends_is_named_by_the_other() -> None:
    """Two launchers of one rank each stand for two machines."""
    flags: tuple[object, ...] = ("--ranks", 2, "--nodes", 2, "--rendezvous", f"127.0.0.1:{free_port()}")
    machines = [start(*flags) for _ in range(2)]
    said = "".join(ends(machine, 0) for machine in machines)
    assert said.count(" done\n") == 2
    flags = ("--ranks", 2, "--nodes", 2, "--rendezvous", f"127.0.0.1:{free_port()}", "--fault", "raise", "--nccl")
    machines = [start(*flags) for _ in range(2)]
    outputs = [machine.communicate(timeout=400)[0] for machine in machines]
    assert sorted(machine.returncode for machine in machines) == [1, 4]
    named = "error: another machine's part of the run ended: rank 1 ended with exit code 1"
    assert [named in output for output in outputs].count(True) == 1


def test_machines_that_run_something_else_are_refused() -> None:
    meeting = f"127.0.0.1:{free_port()}"
    first = start("--ranks", 2, "--nodes", 2, "--rendezvous", meeting)
    other = start("--ranks", 4, "--nodes", 2, "--rendezvous", meeting)
    outputs = [process.communicate(timeout=400)[0] for process in (first, other)]
    said = (
        "start the same command",
        "another machine's part of the run ended: machine 1 was started for ",
    )
    assert [sum(words in output for output in outputs) for words in said] == [1, 1]
    assert sorted((first.returncode, other.returncode)) == [2, LOST]


# ---------------------------------------------------------------- the judge


def test_the_judge_knows_a_sleeper_from_a_worker(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    worker = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        beats = [Beat(tmp_path / str(rank)) for rank in range(2)]
        judge = Judge({0: sleeper.pid, 1: worker.pid}, tmp_path, limits=Limits(idle=1.0, disk=600.0, busy=600.0))

        def verdict(seconds: float) -> str:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if found := judge():
                    return f"rank {found[0].rank} {found[1]}"
                time.sleep(0.05)
            return ""

        for beat in beats:
            beat("saving")
        assert verdict(2.0) == ""  # an idle rank that saves
        beats[0]("step 3, gather", waits=True)
        beats[1]("step 3")
        assert verdict(2.0) == ""  # one waits, the other computes
        beats[0]("step 3")
        assert verdict(400.0).startswith("rank 0 hangs: nothing computed for ")
        os.kill(worker.pid, signal.SIGSTOP)
        beats[0]("step 4, gather", waits=True)
        judge.limits = Limits(stopped=0.5)
        assert verdict(400.0).startswith("rank 1 is stopped (SIGSTOP)")
    finally:
        sleeper.kill()
        worker.kill()


def test_a_full_folder_of_heartbeats_is_named() -> None:
    """That of temporary files; else the line of a rank that cannot beat would name no file."""
    with pytest.raises(OSError, match="No space left") as found:
        Beat(Path("/dev/full"))
    assert found.value.filename == "/dev/full"


def test_in_the_first_steps_a_rank_is_measured_by_the_others(tmp_path: Path) -> None:
    """By none where devices are unlike, where no other rank has come, or where it waits itself."""
    pids = {0: os.getpid(), 1: os.getpid()}

    def limit(first: str, waits: bool, alike: bool = True) -> float:
        Beat(tmp_path / "0")(first, waits=waits)
        Beat(tmp_path / "1")("step 1")
        judge = Judge(pids, tmp_path, alike=alike, limits=Limits(early=120.0, first=1800.0, times=20.0))
        judge()
        judge.ranks[0].longest = 30.0
        return judge._longest(judge.ranks[1], judge.ranks)

    assert limit("step 1, gather", True) == 600.0  # 20 times what the other took
    assert limit("step 1", False) == 1800.0
    assert limit("step 1, gather", True, alike=False) == 1800.0
