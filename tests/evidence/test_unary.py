"""pytest tests/evidence/test_unary.py

A slice of tests.evidence.unary: every 256th piece of 2^16 inputs of each elementary function, computed without torch
by the baseline kernels, has the fingerprint that the library's own instruction set gives, and no larger error than
docs/evidence/unary.json says of all inputs. A sample against mpmath at 100 bits, which shares nothing with the C library that
those errors are measured against: no larger error, and at the inputs of the largest ones just those errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import mpmath
import numpy as np
import pytest
import torch

from cuda_ops import ops
from tests.evidence.common import EVIDENCE
from tests.evidence.unary import TURN_END, compile_program, measure

STEP, PIECE = 256, 2**16
SAMPLE = 2**12  # inputs of each kind: any bit pattern, and where the function is of interest
PRECISION = 100  # bits
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


# ---------------------------------------------------------------- against mpmath

Real: TypeAlias = Any  # mpmath.mpf, which has no types
TOP = mpmath.mpf(2) ** 128 * (1 - mpmath.mpf(2) ** -25)  # from here on binary32 rounds to infinity


def held(x: Real, limit: int) -> Real:
    return min(max(x, mpmath.mpf(-limit)), mpmath.mpf(limit))


def sigmoid_of_2u(x: Real) -> tuple[Real, Real]:
    """1 / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3), and the derivative of 2u; beyond 16 it has reached its limits."""
    slope, h = 2 * mpmath.sqrt(2 / mpmath.pi), held(x, 16)
    cube = slope * mpmath.mpf("0.044715")
    return 1 / (1 + mpmath.exp(-(slope * h + cube * h**3))), slope + 3 * cube * h * h


def gelu_derivative(x: Real) -> Real:
    s, slope = sigmoid_of_2u(x)
    return s + held(x, 16) * s * (1 - s) * slope


# The function, and the interval of interest.
EXACT: dict[str, tuple[Callable[[Real], Real], float, float]] = {
    "exp": (lambda x: mpmath.exp(held(x, 200)), -104.0, 89.0),
    "log": (mpmath.log, 2.0**-20, 4.0),
    "sqrt": (mpmath.sqrt, 0.0, 4.0),
    "gelu": (lambda x: x * sigmoid_of_2u(x)[0], -12.0, 12.0),
    "gelu_derivative": (gelu_derivative, -12.0, 12.0),
    "cos_turn": (lambda x: mpmath.cospi(2 * x), 0.0, 1.0),
    "sin_turn": (lambda x: mpmath.sinpi(2 * x), 0.0, 1.0),
}


def sampled(function: str, low: float, high: float) -> np.ndarray:
    """fp32 inputs on which the function is a real number: the worst one published, any bit pattern, and the interval."""
    random = np.random.default_rng(ops.FUNCTIONS.index(function))
    worst = np.array([int(PUBLISHED[function]["at"], 16)], np.uint32).view(np.float32)
    patterns = random.integers(0, TURN_END if function.endswith("_turn") else 2**32, SAMPLE, np.uint32)
    inside = random.uniform(low, high, SAMPLE).astype(np.float32)
    inside = inside[inside < 1] if function.endswith("_turn") else inside  # where rounding gave 1
    found = np.concatenate([worst, patterns.view(np.float32), inside])
    found = np.abs(found) if function in ("log", "sqrt") else found
    return found[np.isfinite(found) & ((found != 0) | (function != "log"))]


def error(y: float, exact: Real) -> Real:
    """In ulps of binary32 at the exact value."""
    exponent = max(int(mpmath.frexp(exact)[1]) - 1, -126) if exact else -126
    return mpmath.ldexp(abs(mpmath.mpf(y) - exact), 23 - exponent)


@pytest.mark.parametrize("function", ops.FUNCTIONS)
def test_a_sample_against_mpmath(function: str) -> None:
    exactly, low, high = EXACT[function]
    inputs = sampled(function, low, high)
    assert len(inputs) > 1.9 * SAMPLE
    out = torch.empty(len(inputs))
    ops.unary(out, torch.from_numpy(inputs), function)
    errors, absolute = [], []
    with mpmath.workprec(PRECISION):
        for x, y in zip(inputs.tolist(), out.tolist(), strict=True):
            exact = exactly(mpmath.mpf(x))
            if math.isinf(y):
                assert abs(exact) >= TOP, x
                continue
            errors.append(float(error(y, exact)))
            absolute.append(float(abs(mpmath.mpf(y) - exact)) if abs(exact) < 1 else 0.0)
    published = PUBLISHED[function]  # its numbers are printed with four digits
    assert errors[0] == pytest.approx(published["largest_error_ulp"], rel=1e-6, abs=6e-5)
    assert max(errors) <= errors[0] + 6e-5
    assert 0 < max(absolute) <= published["largest_absolute_error_below_1"] * 1.001


def test_mpmath_sees_results_three_ulps_away() -> None:
    inputs = np.linspace(-80, 80, 97, dtype=np.float32)
    out = torch.empty(len(inputs))
    ops.unary(out, torch.from_numpy(inputs), "exp")
    away = (out.view(torch.int32) + 3).view(torch.float32).tolist()
    with mpmath.workprec(PRECISION):
        errors = [error(y, mpmath.exp(mpmath.mpf(x))) for x, y in zip(inputs.tolist(), away, strict=True)]
    assert min(errors) > PUBLISHED["exp"]["largest_error_ulp"]
