"""pytest tests/records/test_metrics.py

What is written for those who look on: metrics.jsonl, its picture, TensorBoard's files, work and energy and money.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import get_args

import pytest

from cuda_ops.errors import UserError
from pipeline import follow
from pipeline.base.chain import Line
from pipeline.machine.energy import Energy
from pipeline.recipe import Bits, Recipe, cost, load_recipe
from pipeline.records.metrics import Metrics, Row, read
from pipeline.records.spent import peak_of, spent, together
from pipeline.records.tensorboard import Events, crc32c
from tests.conftest import ROOT

TINY = ROOT / "tests" / "recipes" / "tiny.yaml"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(TINY)


def filled(path: Path, recipe: Recipe, steps: range, after: int) -> None:
    metrics = Metrics(path, recipe, after)
    for step in steps:
        metrics(Line(step, 5.0 / step, 1e-3, 1.0, 0))
    metrics.close()


def steps_in(path: Path) -> list[Row]:
    """The lines after the first."""
    _, *rows = read(path)
    return [row for row in rows if "step" in row]


def test_a_resumed_run_drops_what_it_computes_again(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    filled(path, recipe, range(1, 5), 0)
    with open(path, "a") as file:
        file.write('{"step": 5, "lo')  # a kill in the middle of a line
    assert [row["step"] for row in steps_in(path)] == [1, 2, 3, 4]
    filled(path, recipe, range(3, 7), 2)
    head, *_ = read(path)
    rows = steps_in(path)
    assert head == {"recipe": "tiny", "steps": 6, "unit": "token", "units": 32 * 48}
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in rows] == [5.0 / step for step in range(1, 7)]
    assert all(row["per_second"] > 0 for row in rows)


def test_a_full_disk_costs_lines_and_not_the_run(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, recipe, 0)
    file = metrics._file
    for step in range(1, 8):
        with open("/dev/full", "wb", buffering=0) as full:
            metrics._file = full if step in (2, 3, 6) else file
            metrics(Line(step, 5.0, 1e-3, 1.0, 0))
    metrics.close()
    assert [row["step"] for row in steps_in(path)] == [1, 4, 5, 7]
    mount = next(place for place in [path, *path.parents] if place.is_mount())
    said = (
        f"warning: {path}: no space left on the device mounted at {mount}; free some and run again; lines are missing, "
        "the run goes on\n"
    )
    assert capsys.readouterr().err == 2 * said


def test_the_picture_and_the_line_of_a_run(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    head = {"recipe": "r", "steps": 200, "unit": "token", "units": 1000}
    rows = [
        {"step": s, "loss": 4.0 if s == 90 else 1.0 + s % 2 / 100, "lr": 1e-3, "norm": 0.5, "seconds": s, "per_second": 2000.0, "at": 1000.0 + s}
        for s in range(1, 101)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in [head, *rows]))
    line, *picture = follow.shown(path, 60, 4, now=1101.0)
    assert "r  step 100 of 200  loss 1.0000" in line
    assert "2,000 tokens/s  eta 50 s  1 spikes, the last at 90" in line
    assert "silent" not in line
    assert not follow.ended(path)
    last = tmp_path / "last.jsonl"
    last.write_text(path.read_text() + json.dumps(rows[-1] | {"step": 200}) + "\n")
    assert follow.ended(last)
    assert "silent for 11 min" in follow.shown(path, 60, 4, now=1760.0)[0]
    assert [row.split("|")[0].strip() for row in picture] == ["4", "", "", "1"]
    assert picture[0].split("|")[1].strip("\u2800"), "the spike is at the top"
    assert follow.picture([1.0, 2.0, 3.0, 4.0], 2, 1) == ["4 |\u2860\u280a"], "four dots that rise from left to right"
    filled(path, recipe, range(0), 0)
    assert follow.shown(path, 60, 4, now=0.0) == ["tiny  no step of 6 has ended yet"]
    with pytest.raises(UserError, match="no such file, or not of a run"):
        follow.shown(tmp_path / "none.jsonl", 60, 4, now=0.0)


def test_tensorboard_s_records(recipe: Recipe, tmp_path: Path) -> None:
    """The published check value of CRC-32C, and a file read back by the format's own description."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    filled(path, recipe, range(1, 4), 0)
    after, events = follow.to_tensorboard(path, tmp_path / "tb", 0, None)
    assert (after, follow.to_tensorboard(path, tmp_path / "tb", after, events)[0]) == (3, 3)
    content = next((tmp_path / "tb").iterdir()).read_bytes()
    records, at = [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        for begin, length in ((at, 8), (at + 12, size)):
            (crc,) = struct.unpack_from("<I", content, begin + length)
            rotated = (crc - 0xA282EAD8) & 0xFFFFFFFF
            assert ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF == crc32c(content[begin : begin + length])
        records.append(content[at + 12 : at + 12 + size])
        at += 16 + size
    assert records[0][9:] == b"\x1a\x0dbrain.Event:2"
    assert len(records) == 1 + 3 * 4
    assert records[1][9] == 0x10, "step"
    assert records[1][10] == 1
    assert b"\x0a\x04loss\x15" + struct.pack("<f", 5.0) in records[1]
    Events(tmp_path / "tb", "x", 1.0).close()


def test_what_a_segment_took() -> None:
    bits = load_recipe(ROOT / "config" / "recipes" / "gpt2_124m.yaml").bits
    found = spent(bits, 100, 14.0, "NVIDIA H100 80GB HBM3", 8, 3.5, 5000.0, None)
    assert found["tokens"] == 100 * 524_288
    assert found["flops"] == 100 * 524_288 * (6 * 124_475_904 + 6 * 12 * 768 * 1024)
    assert found["mfu"] == round(found["flops"] / 14 / (66.9e12 * 8), 4)
    assert found["dollars"] == round(14 / 3600 * 8 * 3.5, 4)
    assert found["gflops_per_watt"] == round(found["flops"] / 5000 / 1e9, 4)
    again = spent(bits, 50, 7.0, "NVIDIA H100 80GB HBM3", 8, 3.5, 2500.0, None)
    whole = together([found, again], "token")
    assert whole["tokens"] == 150 * 524_288
    assert whole["gpu_joules"] == 7500.0
    assert whole["cpu_joules"] is None
    assert math.isclose(whole["mfu"], found["mfu"])
    assert math.isclose(whole["per_second"], 524_288 / 0.14)
    cpu = spent(bits, 1, 2.0, "", 1, 0.0, None, 30.0)
    assert (cpu["mfu"], cpu["dollars"], cpu["device"], cpu["peak_tflops"]) == (None, None, "cpu", None)
    assert cpu["gflops_per_watt"] == round(cpu["flops"] / 30 / 1e9, 4)
    assert together([found, cpu], "token")["mfu"] is None
    assert peak_of("NVIDIA A100-SXM4-80GB", "fp32") == 19.5
    assert peak_of("NVIDIA A100-SXM4-80GB", "bf16") is None
    assert peak_of("NVIDIA A100-SXM4-80GB", "int8x1") == 624.0
    assert peak_of("NVIDIA H100 80GB HBM3", "int8x3") == 1979.0 / 3
    assert peak_of("Tesla V100-SXM2-16GB", "int8x1") is None
    assert peak_of("Tesla V100-SXM2-16GB", "fp32") == 15.7
    assert (peak_of("NVIDIA L4", "fp32"), peak_of("NVIDIA L40S", "fp32")) == (30.3, None)
    assert set(cost.PEAK) == set(get_args(Bits.model_fields["numerics"].annotation)), (
        "each tier has a peak to reckon with"
    )
    assert peak_of("something new", "fp32") is None


def test_energy_is_read_or_none(tmp_path: Path) -> None:
    """Two packages, a part of one that must not count twice, a counter that begins anew; and no counter at all."""
    for name, value in (("intel-rapl:0", 100), ("intel-rapl:1", 9_000_000), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(str(value))
        (tmp_path / name / "max_energy_range_uj").write_text("10000000")
    energy = Energy(False, tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("2000100")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("1000005")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("500000")
    assert energy.cpu_joules() == 2.0 + 1.5
    assert energy.gpu_joules() is None
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert energy.cpu_joules() is None
    assert Energy(True, tmp_path / "nothing").cpu_joules() is None
