"""pytest tests/ops/test_benchmarks.py

benchmarks/gpu.py where there is no GPU: its shapes, its limits, its table, its rotation, and the whole program on CPU
tensors; and that benchmarks/evidence.py measures what it says; predicted times, and decoding beside transformers.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu, predict, predict_digits
from benchmarks.gpu import Limits, row, sets, table
from benchmarks.gpu_cases import MODELS, Case, groups, lm_head_rows, products
from benchmarks.machine_code import find_disassembler
from cuda_ops import toolkit
from pipeline.machine.memory import Memory
from pipeline.models.gpt import Gpt
from tests.conftest import run


def test_the_products_of_a_step_are_all_there() -> None:
    """Six operations per parameter and token: the count that training costs are estimated by."""
    config = MODELS["124M"]
    width, vocabulary, layers = config.channels, config.padded_vocab_size, config.layers
    found = products(config, 1024, 128)
    assert len(found) == 15
    total = sum(2 * m * n * k * calls for _, _, m, n, k, calls in found)
    assert total == 6 * 1024 * (layers * 12 * width**2 + vocabulary * width)
    assert ("mlp out, d weight", "tn", 768, 3072, 1024, 12) in found
    assert ("lm head, d input", "nn", 128, 768, 50304, 8) in found


def test_the_rows_of_the_lm_head_are_the_models() -> None:
    for name, tokens in (("tiny", 64), ("124M", 2048)):
        config = MODELS[name]
        model = Gpt(config.model_copy(update={"layers": 2}), max(1, tokens // 1024), memory=Memory("meta", "cpu"))
        (piece, *_) = [last - first for first, last, _ in model._pieces(max(1, tokens // 1024), min(tokens, 1024))]
        assert lm_head_rows(config, tokens, "cpu") == piece


def test_the_limit_is_the_slower_of_arithmetic_and_memory() -> None:
    limits = Limits(operations=100.0, bytes=10.0)
    assert limits.seconds(1000.0, 10.0) == 10.0
    assert limits.seconds(10.0, 1000.0) == 100.0
    case = Case("memory", "an op", "3", 1, 1000.0, 10.0, lambda: None, lambda: None)
    found = row("tiny", case, limits, 20.0, 30.0)
    assert (found.limit, found.share, found.ratio) == (10.0, 0.5, 1.5)
    assert table(limits, [found], "about")[-1].endswith("| 0.50 | 1.50 |")


def test_tensors_rotate_until_the_cache_has_forgotten_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def make() -> list[Case]:
        made.append(len(made))
        return [Case("memory", "an op", "", 1, 0.0, 100.0, partial(used.append, made[-1]), lambda: None)]

    used: list[int] = []
    monkeypatch.setattr(gpu, "cache_bytes", lambda: 150)
    ((a, b, c, d),) = sets(make)  # three others move 300 bytes, twice the cache
    assert (a.ours, d.ours) != (b.ours, c.ours)
    gpu.timer([case.ours for case in (a, b, c, d)])()
    assert used[-8:] == [0, 1, 2, 3] * 2


def test_it_runs_on_cpu_tensors(tmp_path: Path) -> None:
    size = ["--models", "tiny", "--tokens", "16", "--rounds", "1"]
    output = run("-m", "benchmarks.gpu", "--device", "cpu", *size, "--json", str(tmp_path / "ops.json"))
    rows = [line for line in output.splitlines() if line.startswith("| tiny ")]
    assert len(rows) == 15 + 3 + 14
    found = json.loads((tmp_path / "ops.json").read_text())["rows"]
    assert [f"tiny {row['op']}" for row in found] == [line.split("|")[1].strip() for line in rows]
    assert {row["kind"] for row in found} == {"matmul", "attention", "memory", "fill"}
    assert all(row["ours"] > 0 and row["share"] == row["limit"] / row["ours"] for row in found)
    bytes_of = {row["op"]: row["bytes"] for row in found}
    assert bytes_of["cross entropy + gradient"] == 16 * 16 * 256  # 16 bytes a logit
    assert bytes_of["layernorm backward"] == 6 * 4 * 16 * 64  # six arrays
    assert len(groups(MODELS["tiny"], 16, 16)) == 15 + 5


def test_digits_run_on_cpu_tensors() -> None:
    """benchmarks/gpu_digits.py: every product, its bits beside the CPU's, both passes of attention."""
    size = ["--model", "tiny", "--tokens", "32", "--rounds", "1"]
    output = run("-m", "benchmarks.gpu_digits", "--device", "cpu", *size)
    products_ = [line for line in output.splitlines() if line.endswith("| yes |")]
    assert len(products_) == 15 + 2
    assert "| NO |" not in output
    assert "| attention, gradients |" in output
    assert output.splitlines()[2].count("|") == 13


@pytest.mark.skipif(toolkit.find_nvcc() is None or find_disassembler() is None, reason="needs nvcc and cuobjdump")
def test_predicted_times_in_digits_are_on_the_page() -> None:
    for digits, limit in ((2, predict_digits.PEAK / 3), (1, predict_digits.PEAK)):
        seconds, _ = predict_digits.product("nt", 8192, 3072, 768, digits)
        assert 0.1 < 2 * 8192 * 3072 * 768 / seconds / limit < 0.63
    text = predict.PAGE.read_text()
    written = text[text.index(predict_digits.BEGIN) + len(predict_digits.BEGIN) : text.index(predict_digits.END)]
    if f"nvcc {toolkit.nvcc_version(toolkit.find_nvcc() or Path())}." not in written:
        pytest.skip("the table is another nvcc's")
    assert written == "\n".join(predict_digits.table()) + "\n", "run: python -m benchmarks.predict_digits --write"


def test_a_peak_is_of_the_operations_that_were_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that says 8e9 operations a launch, and a clock that gives 2 s: 4e9 a second, not none."""
    monkeypatch.setattr(gpu, "compile_peak", lambda folder, name: SimpleNamespace(peak_launch=lambda *_: 8e9))
    monkeypatch.setattr(gpu, "seconds", lambda call, count: (call(), 2.0)[1])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    assert gpu.measure_peak("peak", 4) == 4e9


def test_without_a_gpu_it_says_so() -> None:
    output = run("-m", "benchmarks.gpu", "--models", "900B", code=2)
    assert output.strip().endswith("error: --models 900B: allowed are 124M, 1558M, tiny")


def test_the_cost_of_the_evidence_is_measured() -> None:
    """benchmarks/evidence.py with one step: its table, not its limits, which are for a quiet machine."""
    output = run("-m", "benchmarks.evidence", "--configs", "4x128", "--steps", "1", code=None)
    (line,) = [line for line in output.splitlines() if line.startswith("| 4x128")]
    shares = [float(cell.strip().rstrip("%")) for cell in line.split("|")[4:7]]
    assert all(0 <= share < 100 for share in shares), line  # 0.000% on a busy machine


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
