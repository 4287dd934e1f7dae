"""pytest tests/machine/test_bounds.py

Numbers of the command line have bounds: a flag of a stage that takes one refuses what is no number, or too large a one.
"""

from __future__ import annotations

import importlib
import sys

import pytest

from cuda_ops.bounds import real, whole

FLAGS = {
    "compare": (["a", "b"], ["--further"]),
    "compile": ([], ["--threads"]),
    "evaluate": (["--recipe", "r", "--checkpoint", "c"], ["--batch-size", "--threads"]),
    "follow": (["run"], ["--every", "--height"]),
    "lm_eval": (["--weights", "w", "--tasks", "t"], ["--limit", "--batch-size", "--threads"]),
    "prepare_text": (["--recipe", "r"], ["--threads"]),
    "recipe.__main__": (["r"], ["--devices", "--mfu", "--peak", "--price", "--micro-batch"]),
    "replay": (["--recipe", "r", "--step", "1"], ["--lane", "--further", "--micro-batch", "--threads"]),
    "sample": (["--checkpoint", "c"], ["--batch-size", "--threads"]),
    "spikes": (["--recipe", "r"], ["--z", "--replays", "--most-flops"]),
    "unary_digest": ([], ["--threads"]),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_number_out_of_bounds_is_refused_before_anything_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed, flags = FLAGS[name]
    main = importlib.import_module(f"pipeline.{name}").main
    for flag in flags:
        for value in ("-1", "nan", "inf", "9" * 400, "two"):
            monkeypatch.setattr(sys, "argv", [name, *needed, f"{flag}={value}"])
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 2
            assert f"argument {flag}: {value}: expected a " in capsys.readouterr().err


def test_a_number_within_bounds_is_read() -> None:
    assert (whole(0)("0"), whole(1, 8)("8"), real()("0"), real(0.0, 2.0)("2")) == (0, 8, 0.0, 2.0)
    for read, text in ((whole(1, 8), "9"), (real(above=True), "0"), (real(0.0, 2.0), "2.1")):
        with pytest.raises(Exception, match=f"{text}: expected a "):
            read(text)
