"""pytest tests/machine/test_forks.py

The forks that stand for starts of python in the tests (tests/forks.py) are what the start would be: globals, signals,
ends, the environment. Each is tried with the real python too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.forks import forked, forking_python
from tests.ports import free_port

LIMIT = 400  # seconds after which a test hangs


@pytest.fixture(params=["forked", "real"])
def python(request: pytest.FixtureRequest) -> str:
    return forking_python() if request.param == "forked" else sys.executable


def start(python: str, program: str, *words: str, nohup: bool = False) -> subprocess.Popen[str]:
    def dispositions() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    return subprocess.Popen(
        [python, "-c", program, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, preexec_fn=dispositions,
    )  # fmt: skip


def said(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == code, output
    return output


GLOBALS = """
import pickle, sys
class Own: pass
def annotated(x: sys): pass
assert isinstance(pickle.loads(pickle.dumps(Own())), Own)
assert annotated.__annotations__ == {"x": sys}
print(sorted(name for name in globals() if not name.startswith("__")), sys.argv)
"""


def test_a_program_has_globals_of_its_own(python: str) -> None:
    assert said(start(python, GLOBALS, "a", "b")) == "['Own', 'annotated', 'pickle', 'sys'] ['-c', 'a', 'b']\n"


WAITS = """
import os, signal, time
{before}
print(os.getpid(), flush=True)
time.sleep(3600)
"""


def test_who_kills_the_asker_kills_the_program(python: str) -> None:
    process = start(python, WAITS.format(before=""))
    assert process.stdout
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + LIMIT
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_reaches_the_program_and_ends_the_asker_alike(python: str, number: signal.Signals) -> None:
    """With a handler that exits, and without one, where the asker ends by the same signal."""
    handles = f"signal.signal({int(number)}, lambda *_: os._exit(7))"
    for before, code in ((handles, 7), ("", -number)):
        process = start(python, WAITS.format(before=before))
        assert process.stdout
        process.stdout.readline()
        process.send_signal(number)
        assert said(process, code) == ""


SHOWS_HANGUP = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True)"
IGNORES = f"""
import os, subprocess, sys
{SHOWS_HANGUP}
rank = [sys.executable, "-m", "timeit", "-n", "1", "-r", "1", "-s", "{SHOWS_HANGUP}"]
subprocess.Popen(rank, env=os.environ | {{"RANK": "0"}}).wait()
"""


@pytest.mark.parametrize("nohup", [True, False])
def test_what_the_asker_ignores_its_program_and_the_ranks_ignore(python: str, nohup: bool) -> None:
    output = said(start(python, IGNORES, "--ranks", "1", nohup=nohup))
    assert output.splitlines()[:2] == [str(nohup)] * 2


SHOWS = "import os, sys, time; print(time.tzname[0], sys.flags.utf8_mode, sys.flags.dont_write_bytecode)"


@pytest.mark.parametrize("env", [{}, {"TZ": "XYZ3"}, {"PYTHONUTF8": "1"}, {"PYTHONDONTWRITEBYTECODE": "1"}])
def test_a_variable_that_is_read_early_is_read(env: dict[str, str]) -> None:
    whole = os.environ | env
    expected = subprocess.run(
        [sys.executable, "-c", SHOWS], env=whole, capture_output=True, text=True, check=True
    ).stdout
    asker = subprocess.run(
        [forking_python(), "-c", SHOWS], env=whole, capture_output=True, text=True, check=True
    ).stdout
    assert asker == forked("torch", ["-c", SHOWS], ROOT, whole)[1] == expected


def test_no_other_process_gets_a_port_that_is_held() -> None:
    ours = {free_port() for _ in range(3)}
    program = "from tests.ports import free_port; print(free_port(), free_port())"
    theirs = {int(word) for word in said(start(sys.executable, program)).split()}
    assert len(ours | theirs) == 5
    assert max(ours | theirs) < 32768
