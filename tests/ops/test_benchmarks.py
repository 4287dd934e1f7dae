"""pytest tests/ops/test_benchmarks.py

benchmarks/gpu.py where there is no GPU: its shapes, its limits, its table, and the whole program on CPU tensors; and
that benchmarks/evidence.py measures what it says; predicted times, and decoding beside transformers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import predict
from benchmarks.gpu import MODELS, Case, Limits, products, row, table
from benchmarks.machine_code import find_disassembler
from cuda_ops import toolkit
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
    case = Case("memory", "an op", 1000.0, 10.0, lambda: None, lambda: None)
    found = row(case, limits, 20.0, 30.0)
    assert (found.limit, found.share, found.ratio) == (10.0, 0.5, 1.5)
    assert table(limits, [found], "about")[-1].endswith("| 0.50 | 1.50 |")


def test_it_runs_on_cpu_tensors(tmp_path: Path) -> None:
    size = ["--models", "tiny", "--tokens", "16", "--rounds", "1"]
    output = run("-m", "benchmarks.gpu", "--device", "cpu", *size, "--json", str(tmp_path / "ops.json"))
    rows = [line for line in output.splitlines() if line.startswith("| tiny ")]
    assert len(rows) == 15 + 3 + 14
    found = json.loads((tmp_path / "ops.json").read_text())["rows"]
    assert [row["op"] for row in found] == [line.split("|")[1].strip() for line in rows]
    assert {row["kind"] for row in found} == {"matmul", "attention", "memory", "fill"}
    assert all(row["ours"] > 0 and row["share"] == row["limit"] / row["ours"] for row in found)


def test_without_a_gpu_it_says_so() -> None:
    output = run("-m", "benchmarks.gpu", "--models", "900B", code=2)
    assert output.strip().endswith("error: --models 900B: allowed are 124M, 1558M, tiny")


def test_the_cost_of_the_evidence_is_measured() -> None:
    """benchmarks/evidence.py with one step: its table, not its limits, which are for a quiet machine."""
    output = run("-m", "benchmarks.evidence", "--configs", "4x128", "--steps", "1", code=None)
    (line,) = [line for line in output.splitlines() if line.startswith("| 4x128")]
    shares = [float(cell.strip().rstrip("%")) for cell in line.split("|")[4:7]]
    assert all(0 < share < 100 for share in shares), line


def test_decoding_is_timed_with_or_without_transformers() -> None:
    output = run("-m", "benchmarks.decode", "--model", "tiny", "--tokens", "4", "--rounds", "1", "--batches", "2")
    assert re.search(r"^\| 2 \| \d+\.\d \| (\d+\.\d|not installed: pip install transformers) \|", output, re.MULTILINE)


@pytest.mark.skipif(toolkit.find_nvcc() is None or find_disassembler() is None, reason="needs nvcc and cuobjdump")
def test_predicted_times_are_within_their_limits_and_on_the_page() -> None:
    """A step at 8 x 1024 tokens in 165 ms, a decoded token in 0.6 ms, by the arithmetic that the table states."""
    training, decoding = predict.step(8), predict.token(1023, 0)
    assert predict.total(training) <= 0.165
    assert predict.total(decoding) < 0.6e-3
    assert all(row.seconds > 0 and row.why for row in [*training, *decoding])
    assert predict.total(predict.step(64)) > 7.5 * predict.total(training)
    text = predict.PAGE.read_text()
    written = text[text.index(predict.BEGIN) + len(predict.BEGIN) : text.index(predict.END)]
    if f"nvcc {toolkit.nvcc_version(toolkit.find_nvcc() or Path())}." not in written:
        pytest.skip("the table is another nvcc's")
    assert written == predict.page(8), "run: python -m benchmarks.predict --write"
