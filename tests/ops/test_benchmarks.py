"""pytest tests/ops/test_benchmarks.py

benchmarks/gpu.py where there is no GPU: its shapes, its limits, its table, and the whole program on CPU tensors; and
that benchmarks/evidence.py measures what it says.
"""

from __future__ import annotations

from benchmarks.gpu import MODELS, Case, Limits, products, row
from tests.conftest import run


def test_the_products_of_a_step_are_all_there() -> None:
    """Six operations per parameter and token: the count that training costs are estimated by."""
    width, _, vocabulary = MODELS["124M"]
    found = products(width, vocabulary, 1024)
    assert len(found) == 15
    assert sum(2 * m * n * k for _, _, m, n, k in found) == 6 * 1024 * (12 * width**2 + vocabulary * width)
    assert ("mlp out, d weight", "tn", 768, 3072, 1024) in found


def test_the_limit_is_the_slower_of_arithmetic_and_memory() -> None:
    limits = Limits(operations=100.0, bytes=10.0)
    assert limits.seconds(1000.0, 10.0) == 10.0
    assert limits.seconds(10.0, 1000.0) == 100.0
    case = Case("an op", 1000.0, 10.0, lambda: None, lambda: None)
    assert row(case, limits, 20.0, 30.0).endswith("| 0.50 | 1.50 |")


def test_it_runs_on_cpu_tensors() -> None:
    output = run("-m", "benchmarks.gpu", "--device", "cpu", "--models", "tiny", "--tokens", "16", "--rounds", "1")
    rows = [line for line in output.splitlines() if line.startswith("| tiny ")]
    assert len(rows) == 15 + 2 + 11
    assert all(float(line.split("|")[5]) > 0 for line in rows)


def test_without_a_gpu_it_says_so() -> None:
    output = run("-m", "benchmarks.gpu", "--models", "900B", code=2)
    assert output.strip().endswith("error: --models 900B: allowed are 124M, 1558M, tiny")


def test_the_cost_of_the_evidence_is_measured() -> None:
    """benchmarks/evidence.py with one step: its table, not its limits, which are for a quiet machine."""
    output = run("-m", "benchmarks.evidence", "--configs", "4x128", "--steps", "1", code=None)
    (line,) = [line for line in output.splitlines() if line.startswith("| 4x128")]
    shares = [float(cell.strip().rstrip("%")) for cell in line.split("|")[4:7]]
    assert all(0 < share < 100 for share in shares), line
