"""pytest tests/evidence/test_replay.py

A step again: the same line from any checkpoint and micro-batch, every tensor of it as the list says, and a check that can fail.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.base import chain
from pipeline.evidence.rerun import Rerun, checkpoints_of, lines_of
from pipeline.evidence.trace import Collector, Trace, step_shapes
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import Trainer
from tests.bits import assert_bits_equal
from tests.conftest import ROOT, run

STEPS = 5


@pytest.fixture(scope="module")
def recorded(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five steps with a checkpoint after the third."""
    out = tmp_path_factory.mktemp("recorded")
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(), Ranks(), tiny["tokens"])
    trainer.initialise()
    lines = []
    for _ in range(STEPS):
        lines.append(trainer.train_step()[0].linked(trainer.link))
        trainer.link = lines[-1].link
        if trainer.step == 3:
            trainer.save(out / "step_000003.safetensors")
    chain.write(out / "chain_000005.tsv", lines)
    return out


def test_any_micro_batch_and_start_give_the_same_tensors(tiny: dict[str, Path], recorded: Path) -> None:
    recipe, known = load_recipe(tiny["recipe"]), lines_of(recorded)
    found = []
    for micro_batch, checkpoints in ((1, checkpoints_of(recorded)), (3, {}), (8, {})):
        again = Rerun(recipe, tiny["tokens"], 5, checkpoints, micro_batch=micro_batch, known=known)
        assert again.steps_on_the_way == (1 if checkpoints else 4)
        collector = Collector(step_shapes(recipe), set())
        assert again.advance(collector).link == known[5].link
        assert again.parted is None
        trace = {seen.name: seen for seen in collector.trace()}
        assert set(trace) == set(step_shapes(recipe)), "the list names exactly what a step computes"
        found.append({name: seen.sha256 for name, seen in trace.items()})
    assert found[0] == found[1] == found[2]


def test_observing_changes_no_bit_and_shows_what_autograd_would(tiny: dict[str, Path], recorded: Path) -> None:
    """The observed tensors are those of the step: the loss from the losses, the sum over lanes, the update's result."""
    recipe = load_recipe(tiny["recipe"])
    shapes = step_shapes(recipe)
    again = Rerun(recipe, tiny["tokens"], 4, checkpoints_of(recorded))
    collector = Collector(shapes, set(shapes))
    line = again.advance(collector)
    lanes = [collector.tensor(f"lane.{k}/gradient/h.0.mlp.fc.weight") for k in range(4)]
    total = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
    assert_bits_equal(collector.tensor("gradient/h.0.mlp.fc.weight"), total)
    losses = torch.cat([collector.tensor(f"lane.{k}/losses") for k in range(4)])
    assert losses.double().mean().item() == pytest.approx(line.loss, rel=1e-6)
    assert_bits_equal(collector.tensor("after/wpe.weight"), again.trainer.model.weights["wpe.weight"])
    hidden, logits = collector.tensor("lane.1/ln_f"), collector.tensor("lane.1/logits")
    weights = collector.tensor("before/wte.weight")
    torch.testing.assert_close(hidden.view(-1, hidden.shape[-1]) @ weights.T, logits, rtol=1e-4, atol=1e-5)


def test_the_command(tiny: dict[str, Path], recorded: Path, tmp_path: Path) -> None:
    base = [
        "-m",
        "pipeline.replay",
        "--recipe",
        str(tiny["recipe"]),
        "--tokens",
        str(tiny["tokens"]),
        "--run",
        str(recorded),
    ]
    out, trace = tmp_path / "o.safetensors", tmp_path / "t.trace"
    name = "lane.2/gradient/ln_f.bias"
    output = run(
        *base, "--step", "5", "--check", "--tensor", name, "--out", str(out), "--trace", str(trace), "--further", "1"
    )
    assert "1 steps on the way" in output
    assert "equal to the chain" in output
    tensors = safetensors.torch.load_file(out)
    assert set(tensors) == {name}
    seen = {item.name: item for item in Trace.load(trace).tensors}
    assert_bits_equal(tensors[name], seen[name].sample.view(tensors[name].shape))
    assert "further.6/weights" in seen
    assert "warning" not in output
    digests = recorded / "digests.json"
    digests.write_text(json.dumps({"train/step_000003.safetensors": "0" * 64, "train/chain_000005.tsv": "0" * 64}))
    alone = run(*base, "--step", "5", "--lane", "2", "--tensor", name)
    digests.unlink()
    assert seen[name].sha256[:12] in alone
    assert re.search(r"warning: .*/step_000003\.safetensors: not the one of .*/digests\.json, which has 000000", alone)
    altered = tmp_path / "altered"
    altered.mkdir()
    lines = chain.read(recorded / "chain_000005.tsv")
    lines[1] = chain.Line(2, lines[1].loss, lines[1].lr, lines[1].norm, lines[1].fingerprint ^ 1, lines[1].link)
    chain.write(altered / "chain_000005.tsv", lines)
    base[-1] = str(altered)
    assert "DIFFERS from the chain, first at step 2" in run(*base, "--step", "3", "--check", code=1)


def test_the_way_to_a_step_is_told(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes without a checkpoint are not silent: a line every ten seconds, here after every step."""
    from pipeline.data import progress

    monkeypatch.setattr(progress, "EVERY", -1.0)
    Rerun(load_recipe(tiny["recipe"]), tiny["tokens"], 3, {})
    said = capsys.readouterr().err
    assert "from the initial weights to step 3, steps on the way: 1 of 2\n" in said
    assert "steps on the way: 2 of 2\n" in said


def test_a_list_ends_in_silence_with_its_reader(tiny: dict[str, Path], recorded: Path) -> None:
    """As another tool's that SIGPIPE ends; with more to say than a pipe holds."""
    text = tiny["recipe"].read_text()
    recipe = recorded.parent / "many.yaml"
    recipe.write_text(text.replace("sequences: 32", "sequences: 1024").replace("lanes: 4", "lanes: 1024"))
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m pipeline.replay --recipe "$1" --step 2 --list | head -1', sys.executable, recipe],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
    assert len(done.stdout.splitlines()) == 1


def test_mistakes_are_named(
    tiny: dict[str, Path], recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cuda_ops.errors import UserError
    from pipeline import replay

    empty = tmp_path / "empty"
    empty.mkdir()
    base = ["replay", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--run", str(recorded)]
    for flags, message in (
        (["--step", "9"], "--step 9: expected 1 to 6"),
        (["--step", "9", "--check"], "--step 9: expected 1 to 6"),
        (
            ["--step", "6", "--check"],
            r"--step 6 --check: no chain_\*\.tsv of .* line of that step; its steps are 1 to 5:",
        ),
        (["--step", "5", "--check", "--run", str(empty)], "--step 5 --check: .*; it has no chain: name the folder"),
        (["--step", "5", "--lane", "7", "--tensor", "lane.7/tokens"], "--lane 7: the recipe has lanes 0 to 3"),
        (["--step", "5", "--tensor", "h.9"], "--tensor h.9: no such tensor in this step; --list names them"),
        (["--step", "5", "--lane", "1", "--check"], "--check needs the whole step"),
        (["--step", "2", "--checkpoint", str(recorded / "step_000003.safetensors")], "which is not before 2"),
    ):
        monkeypatch.setattr(sys, "argv", base + flags)
        with pytest.raises(UserError, match=message):
            replay.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(tiny: dict[str, Path], recorded: Path) -> None:
    from cuda_ops.errors import UserError

    with pytest.raises(UserError, match=r"cuda:0: .*use --device cpu"):
        Rerun(load_recipe(tiny["recipe"]), tiny["tokens"], 4, checkpoints_of(recorded), device="cuda")
