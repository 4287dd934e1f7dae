"""pytest tests/pipeline/test_gpu_proof.py

The GPU proof's own path where there is no GPU: `--device cpu --brief` runs parts of it, a difference is named, and a part
that fails or hangs does not stop the others. The published fingerprints and chain belong to the published digests.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import chain, unary_digest
from pipeline.digests import EXPECTED, published
from pipeline.gpu_proof import Failed, Proof, compare_chains, first_difference, sha256
from tests.conftest import run

FABLES = EXPECTED / "chains" / "fables.tsv"


def test_brief_proof_on_the_cpu(tmp_path: Path) -> None:
    parts = "build,ops,fables,ranks,sanitizer"
    output = run(
        "-m", "pipeline.gpu_proof", "--device", "cpu", "--brief", "--parts", parts, "--work", str(tmp_path / "work"),
        "--out", str(tmp_path / "evidence"),
    )  # fmt: skip
    assert "5 of 5 parts passed" in output
    assert "3 steps equal fables.tsv line by line" in output
    assert "2 steps equal on 2 x cpu,cpu" in output
    (found,) = (tmp_path / "evidence").glob("cpu-*.json")
    evidence = json.loads(found.read_text())
    assert [part["verdict"] for part in evidence["parts"]] == ["passed"] * 5
    assert found.with_suffix(".md").read_text().count("| passed |") == 5


def test_the_published_chain_is_that_of_the_published_digests(tmp_path: Path) -> None:
    lines = chain.read(FABLES)
    chain.check(lines, chain.START, FABLES)
    first = 0
    for last in (250, 500, 1000):
        part = tmp_path / f"chain_{last:06d}.tsv"
        chain.write(part, lines[first:last])
        assert sha256(part) == published("fables")[f"train/{part.name}"]
        first = last


def test_the_first_step_that_differs_is_named(tmp_path: Path) -> None:
    lines = chain.read(FABLES)
    found = tmp_path / "chain_000250.tsv"
    chain.write(found, lines[:250])
    assert compare_chains(found, FABLES) == "250 steps equal fables.tsv line by line"
    text = found.read_text().splitlines()
    text[124] = text[124].replace("0x1.", "0x1.0", 1)  # the line of step 124
    found.write_text("\n".join(text) + "\n")
    with pytest.raises(Failed, match="step 124 differs first"):
        compare_chains(found, FABLES)
    assert "step 124 differs first" in first_difference("fables", found)


def test_a_failed_or_hanging_part_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proof = Proof("cpu", False, tmp_path)

    def part(code: str, seconds: int = 60) -> tuple[int, object]:
        return seconds, lambda: proof.run("-c", code).strip()

    proof.parts = {
        "wrong": part("raise SystemExit('a bit differs')"),
        "hangs": part("import time; time.sleep(60)", 1),
        "right": part("print('well')"),
    }  # type: ignore[assignment]
    parts = proof.prove(["wrong", "hangs", "right"])
    assert [p.verdict for p in parts] == ["FAILED", "FAILED", "passed"]
    assert "a bit differs" in parts[0].detail
    assert "still running when its time was over" in parts[1].detail
    assert parts[2].detail == "well"
    assert "[3/3] right" in capsys.readouterr().out


def test_mistakes_are_named() -> None:
    output = run("-m", "pipeline.gpu_proof", "--device", "cpu", "--parts", "spead", code=2)
    assert "error: --parts spead: allowed are build, ops, unary" in output
    output = run("-m", "pipeline.unary_digest", "--functions", "tan", code=2)
    assert "error: --functions tan: allowed are exp, log" in output


def test_an_elementary_function_has_its_published_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^30 inputs of one function here; all of all functions: python -m pipeline.unary_digest."""
    assert set(unary_digest.published()) == set(unary_digest.ops.FUNCTIONS)
    unary_digest.ops.set_threads(2)
    good = unary_digest.published()["cos_turn"]
    assert unary_digest.digest("cos_turn") == good
    part = unary_digest.digest("cos_turn", stride=64)
    exact = unary_digest.ops.unary

    def one_ulp(out, inp, function):
        exact(out, inp, function)
        if inp.view(unary_digest.torch.int32)[5] == 5:
            out.view(unary_digest.torch.int32)[5] += 1

    monkeypatch.setattr(unary_digest.ops, "unary", one_ulp)
    assert unary_digest.digest("cos_turn", stride=64) != part
