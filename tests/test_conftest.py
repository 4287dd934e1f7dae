"""pytest tests/test_conftest.py

What a test finds depends neither on what ran before it nor on how the tests were started (conftest.py).
"""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT, SEED


@pytest.mark.parametrize("time", ["first", "second"])
def test_torch_draws_the_same_in_every_test(time: str) -> None:
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(SEED))), time


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("load", ["", "import tests.conftest;"])
def test_what_tests_start_takes_a_stop_in_the_background_and_under_nohup_too(load: str, number: signal.Signals) -> None:
    ask = f"import signal; print(signal.getsignal({int(number)}) == signal.SIG_IGN)"
    script = f"import subprocess, sys; {load} subprocess.run([sys.executable, '-c', {ask!r}])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )  # fmt: skip
    assert done.stdout.strip() == str(not load), "without it they do not: the control"
