"""pytest tests/machine/test_progress.py

What training says while it goes, in a log: a first line soon, then one at every tenth of the segment, or every half
minute, and the last, with the time until the segment's end and the run's.
"""

from __future__ import annotations

import time

import pytest

from pipeline.base.chain import Line
from pipeline.machine.progress import Progress, duration
from pipeline.recipe import load_recipe
from tests.conftest import ROOT


def test_a_line_has_the_time_until_the_segment_and_the_run_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(ROOT / "config" / "recipes" / "fables.yaml")  # 1000 steps of 2048 tokens
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    progress, said = Progress(recipe, 250, True), []
    for step in range(1, 251):
        now[0] += 0.5
        progress(Line(step, 1.5, 1e-3, 0.25, 0))
        if words := capsys.readouterr().err:
            said.append((step, words))
    assert [step for step, _ in said] == [*range(5, 250, 25), 250]
    assert said[2] == (
        55, "step 55/1000  loss 1.5000  norm 0.25  lr 1.0e-03  4,096 tokens/s  eta 98 s, of the run 8 min\n"
    )  # fmt: skip
    assert said[-1][1].endswith("eta 0 s, of the run 6 min\n")
    assert [duration(seconds) for seconds in (5.4, 100, 7200)] == ["5 s", "2 min", "2.0 h"]
    Progress(recipe, 250, False)(Line(250, 1.5, 1e-3, 0.25, 0))  # another rank
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("first", "last", "seconds", "expected"),
    [
        (1, 3, 0.1, [3]),  # too short for more
        (1, 100, 31.0, [*range(1, 101)]),  # slow steps: whoever looks finds one of the last half minute
        (1, 10_000, 0.125, [17, *range(258, 10_000, 241), 10_000]),  # a long segment: every half minute
        (901, 1000, 1.0, [903, *range(913, 1000, 10), 1000]),  # taken up: a tenth of what is left
    ],
)
def test_a_log_gets_few_lines_whatever_the_length(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    first: int, last: int, seconds: float, expected: list[int],
) -> None:  # fmt: skip
    now = [0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0] * seconds)
    progress = Progress(load_recipe(ROOT / "config" / "recipes" / "fables.yaml"), last, True)
    for step in range(first, last + 1):
        now[0] += 1
        progress(Line(step, 1.5, 1e-3, 0.25, 0))
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split("/")[0].removeprefix("step ")) for line in lines] == expected
