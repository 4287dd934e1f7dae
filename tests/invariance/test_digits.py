"""pytest tests/invariance/test_digits.py

One digest for a small run in digits, its sequences a block and a bit long, under the ways of running it: micro-batch,
threads, recompute, pieces of the lm head, ranks, instruction set. Weights written from outside are cut again.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pipeline.machine.execution import Execution
from pipeline.training.trainer import Trainer
from tests.conftest import run
from tests.digits import TIERS
from tests.invariance.test_invariance import command, in_process, result

EDITS = {"context: 48,": "context: 140,", "batch: {sequences: 32,": "batch: {sequences: 8,", "lanes: 4": "lanes: 2"}


@pytest.fixture(scope="module", params=TIERS)
def digits(
    request: pytest.FixtureRequest, tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The tiny recipe in a tier."""
    text = tiny["recipe"].read_text()
    for old, new in {**EDITS, "numerics: fp32": f"numerics: {request.param}"}.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("digits") / "tiny.yaml"
    path.write_text(text)
    return tiny | {"recipe": path}


def test_micro_batch_threads_recompute_and_pieces(digits: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        in_process(digits, Execution(micro_batch=micro_batch, threads=threads, recompute=recompute))
        for micro_batch, threads, recompute in itertools.product((1, 3, 4), (1, 3), (False, True))
    }
    monkeypatch.setattr("pipeline.models.gpt.LOGITS_BYTES", 1)  # pieces of 128 tokens: a block, then the rest
    found.add(in_process(digits, Execution(micro_batch=4)))
    assert len(found) == 1


def test_a_piece_that_begins_inside_a_block_is_seen(digits: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: pieces of 64 tokens cut the lm head's blocks."""
    whole = in_process(digits, Execution(micro_batch=4))
    monkeypatch.setattr("pipeline.models.gpt.LOGITS_BYTES", 1)
    monkeypatch.setattr("pipeline.models.digits.BLOCK", 64)
    monkeypatch.setattr("pipeline.models.gpt.LOGITS_ROWS", {"cpu": 64})
    assert in_process(digits, Execution(micro_batch=4)) != whole


def test_ranks_and_instruction_sets(digits: dict[str, Path], tmp_path: Path) -> None:
    ways = [([], {}), (["--ranks", "2", "--micro-batch", "3"], {"SAMEBITS_DOT": "plain"})]
    ways += [(["--micro-batch", "1"], {"SAMEBITS_ISA": "baseline"})]
    found = set()
    for number, (flags, env) in enumerate(ways):
        out = tmp_path / str(number)
        run(*command(digits, out, *flags, steps=3), env=env)
        found.add(result(out, 3))
    assert len(found) == 1


def test_weights_written_from_outside_are_cut_again(digits: dict[str, Path]) -> None:
    """Between two steps, through the trainer's model: as a checkpoint that is restored, or a test that flips a bit."""

    def scaled(trainer: Trainer) -> None:
        if trainer.step == 1:
            trainer.model.weights["h.1.mlp.fc.weight"].mul_(4)

    plain, written = (in_process(digits, Execution(), sabotage=sabotage) for sabotage in (None, scaled))
    assert written != plain
    assert in_process(digits, Execution(micro_batch=1, recompute=True), sabotage=scaled) == written
