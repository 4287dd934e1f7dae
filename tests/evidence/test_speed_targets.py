"""pytest tests/evidence/test_speed_targets.py

What the GPU proof asks of speed: a missed target is no success, what was measured before time was over is judged, and
every case of benchmarks/gpu.py is held against the prediction that benchmarks/predict.py makes of it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import predict
from benchmarks.gpu_cases import MODELS, products
from benchmarks.machine_code import find_disassembler
from cuda_ops.toolkit import find_nvcc, nvcc_version
from pipeline.evidence import gpu_record
from pipeline.evidence.gpu_parts import Result, prove
from pipeline.evidence.gpu_session import Expired, Session
from pipeline.evidence.speed_targets import MATMUL_SHARE, OF_PREDICTION, TRAFFIC, judge, predictions
from pipeline.gpu_proof import exit_code
from pipeline.pages.proof_page import page
from tests.conftest import ROOT
from tests.evidence.test_gpu_proof import record

RATE = OF_PREDICTION * predictions()["tokens_per_second"]


def asked(op: str) -> float:
    return round(OF_PREDICTION * float(predictions()["shares"][f"124M {op}"]), 3)


def rows(**changes: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measurements that meet every target exactly, but for the changes."""
    v = {
        "share": 0.7, "ratio": 0.9, "adamw": 0.81, "tail": asked("projection, d weight"), "ours": RATE, "grown": 0.0,
        "attention": asked("attention forward"),
    } | changes  # fmt: skip
    common = {"model": "124M", "shape": "s", "calls": 1}
    ops = [
        common | {"kind": "matmul", "op": "qkv", "share": 0.7, "limit": 70.0, "ours": 70.0 / v["share"], "torch": 0.0},
        common
        | {"kind": "matmul", "op": "projection, d weight", "share": v["tail"], "limit": 0.0, "ours": 0.0, "torch": 0.0},
        common | {"kind": "memory", "op": "adamw", "share": v["adamw"]},
        common | {"kind": "attention", "op": "attention forward", "share": v["attention"]},
        common | {"kind": "fill", "op": "fill normal", "share": 0.01},  # has no target
    ]
    ops[0]["torch"] = float(ops[0]["ours"]) * v["ratio"]  # type: ignore[arg-type]
    ours = {"model": "124M x8", "side": "samebits", "tokens_per_second": v["ours"], "grown_mib": v["grown"]}
    return ops, [ours, {"model": "124M x8", "side": "compiled", "tokens_per_second": RATE}]


def test_speed_targets_can_be_missed() -> None:
    assert [target.what for target in judge(*rows(), "NVIDIA H200") if not target.met] == []
    assert len(judge(*rows(), "NVIDIA H200")) == 5 + 4
    assert len(judge(*rows(), "NVIDIA A100")) == 4 + 4  # no tokens/s are asked of it
    assert len(judge(*rows(), "NVIDIA H100 80GB HBM3")) == 5 + 4
    assert len(judge(*rows(), "NVIDIA GH200 480GB")) == 4 + 4
    below = {
        "share": 0.69, "ratio": 0.89, "adamw": 0.80, "tail": asked("projection, d weight") - 0.01, "ours": RATE - 1.0,
        "grown": 2.0, "attention": asked("attention forward") - 0.01,
    }  # fmt: skip
    for key, value in below.items():
        missed = [target.what for target in judge(*rows(**{key: value}), "NVIDIA H200") if not target.met]
        assert len(missed) == (2 if key == "ours" else 1), missed
    assert {target.met for target in judge([], [], "NVIDIA H200")} == {None}  # neither met nor missed


def test_every_op_of_the_benchmark_has_a_prediction_in_the_docs() -> None:
    """The traffic that an op is held against is the one that docs/kernels.md states."""
    text = (ROOT / "docs" / "kernels.md").read_text()
    found = re.findall(r"^\| ([\w ,-]+) \| (\d+) \+ \d.* (0\.\d+) \|$", text, re.M)
    stated = {line: (int(reads), float(share)) for line, reads, share in found}
    for op, line in (("adamw", "AdamW"), ("add", "add, GELU backward"), ("gelu backward", "add, GELU backward"),
                     ("gelu forward", "GELU forward"), ("layernorm forward", "LayerNorm forward"),
                     ("layernorm backward", "LayerNorm backward"), ("cross entropy + gradient", "cross-entropy with gradient"),
                     ("gradient norm", "bias gradient, norm, fingerprint"),
                     ("embedding backward", "embedding gradient")):  # fmt: skip
        writes = 0 if op == "gradient norm" else 12 if op == "adamw" else 4
        assert (TRAFFIC[op].bytes - writes, TRAFFIC[op].share) == stated[line], op


def test_every_case_of_the_benchmark_is_asked_a_share_of_its_own() -> None:
    """At the tokens and rows that the part `speed` measures; predicted.json knows every product and attention."""
    shares = predictions()["shares"]
    for model in ("124M", "1558M"):
        found = [f"{model} {what}" for what, *_ in products(MODELS[model], 8192, 4096)]
        found += [f"{model} attention forward", f"{model} attention backward"]
        assert set(found) == {name for name in shares if name.split()[0] == model}
        assert predictions()["products"][model] >= MATMUL_SHARE  # a perfect GPU passes
    assert all(0.3 < share < 0.9 for share in shares.values())
    assert OF_PREDICTION * predictions()["tokens_per_second"] > 40_000


@pytest.mark.skipif(find_nvcc() is None or find_disassembler() is None, reason="needs nvcc and cuobjdump")
def test_what_is_asked_is_what_is_predicted() -> None:
    nvcc = find_nvcc()
    if predictions()["nvcc"] != nvcc_version(nvcc or Path()):
        pytest.skip("the predictions are another nvcc's")
    assert predictions() == predict.asked(), "run: python -m benchmarks.predict --write"


def test_a_missed_target_is_on_the_page_and_in_the_exit_code() -> None:
    targets = [vars(target) for target in judge(*rows(adamw=0.5), "NVIDIA H200")]
    evidence = record()
    result = Result("speed", "not met", 1.0, "d", "2026-01-01", {"targets": targets, "tables": ["| a table |"]})
    gpu_record.add(evidence, [result], "c")
    text = page(evidence)
    assert "| 124M adamw, share of the copy bandwidth | 0.81 | 0.50 | s | not met |" in text
    assert text.count("| met |") == 8
    assert "| a table |" in text
    assert exit_code({"not met"}, "cuda", "judge") == 1
    assert exit_code({"not met"}, "cuda", "report") == 0
    assert exit_code({"FAILED"}, "cuda", "report") == 1
    assert exit_code({"unfinished"}, "cuda", "report") == 1
    assert exit_code({"skipped"}, "cuda", "report") == 1
    assert exit_code({"skipped"}, "cpu", "judge") == 0
    assert exit_code(set(), "cuda", "judge") == 0


def test_when_time_is_over_speed_is_judged_by_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is measured and the first ops; then the time is over. What was too slow is named, the rest stays open."""
    ops, steps = rows(adamw=0.5)

    def run_part(self: Session, *command: str | Path, **_: Any) -> str:
        found = Path(command[command.index("--json") + 1])
        if "step" in str(command[1]):
            side = command[command.index("--sides") + 1]
            found.write_text(json.dumps({"rows": [row for row in steps if row["side"] == side]}))
            return ""
        if "124M" in command:
            found.write_text(json.dumps({"rows": ops}))
        raise Expired("time was over")

    monkeypatch.setattr(Session, "run", run_part)
    session = Session("cuda", False, tmp_path)
    session.gpu = "NVIDIA H200"
    (found,) = prove(session, ["speed"])
    assert found.verdict == "unfinished"
    assert "5 ops and 2 training steps measured" in found.detail
    assert "124M adamw, share of the copy bandwidth: 0.50 at s, asked 0.81" in found.detail
    assert {target["what"]: target["met"] for target in found.facts["targets"]}["step, speed over torch.compile's"]
