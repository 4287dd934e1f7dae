"""pytest tests/evidence/test_unary.py

A slice of tests.evidence.unary: every 256th piece of 2^16 inputs of each elementary function, computed without torch
by the baseline kernels, has the fingerprint that the library's own instruction set gives, and no larger error than
docs/evidence/unary.json says of all inputs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cuda_ops import ops
from tests.evidence.common import EVIDENCE
from tests.evidence.unary import TURN_END, compile_program, measure

STEP, PIECE = 256, 2**16
PUBLISHED = json.loads((EVIDENCE / "unary.json").read_text())["functions"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("unary"), "baseline")


def by_library(function: str, first: int) -> str:
    """The fingerprint of the same inputs by the library: position is the bit pattern, a NaN counts as 7fc00000."""
    total = 0
    for begin in range(first, TURN_END if function.endswith("_turn") else 2**32, STEP * PIECE):
        bits = torch.arange(begin, begin + PIECE, dtype=torch.int64).to(torch.int32)
        out = torch.empty(PIECE)
        ops.unary(out, bits.view(torch.float32), function)
        out[out.isnan()] = float("nan")
        total += ops.fingerprint(out, begin)
    return f"{total % 2**64:016x}"


@pytest.mark.parametrize("function", ops.FUNCTIONS)
def test_error_and_fingerprint(program: Path, function: str) -> None:
    found = measure(program, function, first=5 * PIECE, step=STEP)
    assert found["inputs"] > 4_000_000
    assert 0 < found["largest_error_ulp"] <= PUBLISHED[function]["largest_error_ulp"]
    assert found["largest_absolute_error_below_1"] <= PUBLISHED[function]["largest_absolute_error_below_1"]
    assert found["fingerprint"] == by_library(function, 5 * PIECE)


def test_all_inputs_were_measured() -> None:
    assert set(PUBLISHED) == set(ops.FUNCTIONS)
    for function, found in PUBLISHED.items():
        assert found["inputs"] == (TURN_END if function.endswith("_turn") else 2**32)
    expected = EVIDENCE.parent.parent / "config" / "expected" / "unary.json"
    if expected.exists():
        assert json.loads(expected.read_text()) == {name: found["fingerprint"] for name, found in PUBLISHED.items()}
