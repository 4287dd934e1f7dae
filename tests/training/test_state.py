"""pytest tests/training/test_state.py

Checkpoints are checked whole before use, wherever they are used; initial weights come from files whose digests are
right; the optimizer's factors come from the model's table; a rolling checkpoint is due rarely.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.checkpoint import Checkpoint, Stored, load, save, tensors_digest
from pipeline.base.files import sha256_of
from pipeline.evidence.rerun import Rerun
from pipeline.machine.execution import Execution
from pipeline.machine.memory import Memory
from pipeline.machine.ranks import Ranks
from pipeline.models.flat import Flat, Parameter, Piece, Shards
from pipeline.recipe import AdamW as Config
from pipeline.recipe import load_recipe
from pipeline.scoring.model import load_model
from pipeline.training.optimizers import AdamW
from pipeline.training.segment import Segment
from pipeline.training.trainer import Trainer
from tests.bits import assert_bits_equal
from tests.conftest import ROOT
from tests.models.patterns import advance, new_trainer, recipe


@pytest.fixture(scope="module")
def finished(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe's initial state as a checkpoint."""
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(), Ranks(), tiny["tokens"])
    trainer.initialise()
    path = tmp_path_factory.mktemp("finished") / "step_000000.safetensors"
    trainer.save(path)
    return path


def test_a_checkpoint_says_what_it_is_and_torch_reads_it(finished: Path, tiny: dict[str, Path]) -> None:
    about = load(finished).about
    model = load_recipe(tiny["recipe"]).bits.model
    assert about["recipe"] == "tiny"
    assert about["model"] == model.model_dump(mode="json")
    assert about["vocabulary"] == {"kind": "bpe", "vocab_size": 300}
    assert about["numerics"] == "fp32"
    tensors = safetensors.torch.load_file(finished)
    assert tensors_digest(tensors) == tensors_digest(load(finished).tensors)


def test_the_lines_of_pytorch_in_the_docs_read_a_checkpoint(finished: Path) -> None:
    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = "results/runs/fables/step_001000.safetensors"
    assert shown in block
    found: dict[str, Any] = {}
    exec(block.replace(shown, str(finished)), found)
    stored, vocab = load(finished), found["about"]["model"]["vocab_size"]
    assert {name: found["about"][name] for name in ("step", "recipe", "numerics")} == {
        "step": stored.step, "recipe": "tiny", "numerics": "fp32",
    }  # fmt: skip
    names = [name for name in stored.tensors if not name.startswith("optimizer.")]
    assert sorted(found["weights"]) == sorted(names)
    for name in names:
        assert_bits_equal(found["weights"][name], stored.tensors[name], name)
    assert found["weights"]["h.0.mlp.fc.weight"].shape == (128, 32)
    assert found["weights"]["wte.weight"][vocab:].eq(0).all()


def other(stored: Stored, path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A checkpoint with other tensors and a digest of its own."""
    tensors = dict(stored.tensors)
    change(tensors)
    save(path, Checkpoint(stored.step, stored.recipe_id, stored.link, tensors, stored.about))
    return path


def broadcast(tensors: dict[str, torch.Tensor]) -> None:
    tensors["wte.weight"] = tensors["wte.weight"][:1].clone()


def test_only_rank_0_brings_weights_to_the_host(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(), Ranks(), tiny["tokens"])
    assert trainer._state()["wte.weight"].shape == (304, 32)
    monkeypatch.setattr(Ranks, "first", property(lambda self: False))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: pytest.fail("brought to the host"))
    assert trainer._state()["wte.weight"].numel() == 0


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "broadcast": (broadcast, r"wte.weight is torch.float32 of shape \[1, 32\], recipe tiny has .* \[304, 32\]"),
    "absent": (lambda t: t.pop("h.1.mlp.fc.bias"), "it has no tensor h.1.mlp.fc.bias, which recipe tiny has"),
    "absent state": (lambda t: t.pop("optimizer.v.ln_f.bias"), "it has no tensor optimizer.v.ln_f.bias"),
    "more": (lambda t: t.update(extra=torch.zeros(1)), "it has a tensor extra, which recipe tiny has not"),
    "dtype": (lambda t: t.update({"ln_f.bias": t["ln_f.bias"].double()}), "ln_f.bias is torch.float64"),
    "not finite": (lambda t: t["h.0.attn.qkv.bias"].fill_(float("inf")), "h.0.attn.qkv.bias holds inf at element 0"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_checkpoint_is_refused_everywhere(
    finished: Path, tiny: dict[str, Path], tmp_path: Path, name: str
) -> None:
    change, said = FORGERIES[name]
    path = other(load(finished), tmp_path / "step_000000.safetensors", change)
    r = load_recipe(tiny["recipe"])
    with pytest.raises(UserError, match=said):
        load_model(r, load(path), path, 1)
    with pytest.raises(UserError, match=said):
        Trainer(r, Execution(), Ranks(), tiny["tokens"]).restore(load(path))
    with pytest.raises(UserError, match=said):
        Rerun(r, tiny["tokens"], 1, {0: path})


def test_a_sound_checkpoint_is_taken_everywhere(finished: Path, tiny: dict[str, Path]) -> None:
    """The control of the forgeries."""
    r = load_recipe(tiny["recipe"])
    model = load_model(r, load(finished), finished, 1)
    again = Rerun(r, tiny["tokens"], 1, {0: finished})
    for name, tensor in load(finished).tensors.items():
        if name in model.weights:
            assert_bits_equal(model.weights[name], tensor, name)
            assert_bits_equal(again.trainer.model.weights[name], tensor, name)


# ---------------------------------------------------------------- initial weights


def test_initial_weights_of_a_file(tmp_path: Path) -> None:
    first = new_trainer(recipe(seed=99))
    first.initialise()
    path = tmp_path / "weights.safetensors"
    weights = {name: weight.clone() for name, weight in first.model.weights.items()}
    path.write_bytes(safetensors.torch.save(weights))
    init = {"kind": "weights", "path": str(path), "sha256": sha256_of(path)}
    trainer = new_trainer(recipe(init=init))
    trainer.initialise()
    assert_bits_equal(trainer.model.parameters, first.model.parameters)
    for change, said in (
        ({"path": str(tmp_path / "gone")}, "gone: no such file of weights"),
        ({"path": ""}, "bits.init.path is empty: give the file of the weights with --init FILE"),
        ({"sha256": "0" * 64}, "bits.init.sha256 is 0000"),
    ):
        with pytest.raises(UserError, match=said):
            new_trainer(recipe(init=init | change)).initialise()
    new_trainer(recipe(init=init | {"path": ""})).initialise(path)
    path.write_bytes(safetensors.torch.save(weights | {"fc.bias": torch.zeros(1)}))
    with pytest.raises(UserError, match=r"fc.bias is torch.float32 of shape \[1\]"):
        new_trainer(recipe(init=init | {"sha256": sha256_of(path)})).initialise()
    with pytest.raises(UserError, match=r"--init .*bits.init.kind is normal, which reads no file"):
        new_trainer(recipe()).initialise(path)


def test_initial_weights_of_another_recipes_checkpoint(tmp_path: Path) -> None:
    first = new_trainer(recipe(seed=99))
    first.initialise()
    advance(first, 2)
    path = tmp_path / "step_000002.safetensors"
    first.save(path)
    init = {"kind": "checkpoint", "recipe": "other", "step": 2, "sha256": tensors_digest(load(path).tensors)}
    trainer = new_trainer(recipe(init=init))
    trainer.initialise(path)
    assert_bits_equal(trainer.model.parameters, first.model.parameters)
    assert (trainer.step, trainer.link) == (0, chain.START)
    assert all((state == 0).all() for state in trainer.optimizer.state.values()), "moments begin anew"
    with pytest.raises(UserError, match="give the one of step 2 of recipe other with --init FILE"):
        trainer.initialise()
    with pytest.raises(UserError, match="another checkpoint than that of step 2 of recipe other"):
        new_trainer(recipe(init=init | {"sha256": "0" * 64})).initialise(path)


# ---------------------------------------------------------------- rolling checkpoints


def test_a_checkpoint_when_asked_and_which_ones_stay(tmp_path: Path) -> None:
    """Every second step, the newest three, multiples of four for good, and one more where a signal asked for it."""
    trainer, said = new_trainer(recipe(steps=11)), list[str]()
    execution = Execution(rolling=1e9, rolling_steps=2, keep=3, major=4)
    chain_path = tmp_path / "chain.tsv"
    segment = Segment(trainer, execution, 11, tmp_path / "state", said.append, chain_path=chain_path)
    assert segment.run(lambda: False, lambda line: None, lambda: trainer.step == 4)
    assert segment.rolling.steps() == [10, 8, 6, 5, 4]
    assert said == [f"\nsaved after step 5, as asked: {segment.rolling.path(5)}"]
    segment.finish(tmp_path / "out.safetensors")
    segment.clear()
    assert chain.read(chain_path) == segment.lines
    left = {path.name for path in (tmp_path / "state").iterdir()}
    assert left == {f"{stem}{step}.{end}" for step in (4, 8) for stem, end in (
        ("step_00000", "safetensors"), ("step_00000", "safetensors.sha256"), ("chain_00000", "tsv"))}  # fmt: skip
    plain = new_trainer(recipe(steps=11))
    Segment(plain, Execution(), 11, tmp_path / "other", said.append).run(lambda: False, lambda line: None)
    assert_bits_equal(plain.model.parameters, trainer.model.parameters)
    again = new_trainer(recipe(steps=11))
    back = Segment(again, Execution(), 11, tmp_path / "state", said.append)
    assert back.resumed == 8, "a major is gone on from like any other"


# ---------------------------------------------------------------- optimizer


def test_rates_and_decay_come_from_the_table() -> None:
    """Against the formula in float64: the factor of the learning rate, and decay where the table says, whatever the
    shape."""
    table = {"w": Parameter((2, 3)), "b": Parameter((4,), decay=True, rate=2.0), "c": Parameter((3,), rate=0.5)}
    flat, config, lr = Flat(table, 16), Config(weight_decay=0.3, clip_norm=1e9), 0.125
    optimizer = AdamW(config, flat, [Piece(0, 16, 0)], Memory())
    generator = torch.Generator().manual_seed(1)
    before, gradient = (torch.randn(16, generator=generator) for _ in range(2))
    after = before.clone()
    optimizer.load(1, lr)
    optimizer.scale(torch.zeros(2), torch.ones(2), 1.0)
    optimizer.update(after, gradient)
    for name, p in table.items():
        x, g, y = (flat.views(t)[name].double() for t in (before, gradient, after))
        step = g / (g.abs() + config.eps) + (config.weight_decay * x if p.decay else 0.0)
        torch.testing.assert_close(y, x - p.rate * lr * step, rtol=1e-5, atol=1e-6)
        states = {state: flat.views(t)[name] for state, t in optimizer.state.items()}
        again = AdamW.updated(config, p, flat.views(before)[name], states, 1, lr)
        assert_bits_equal(again, flat.views(after)[name], name)
    shards, dealt = Shards(16, 2, 2, 4), before.clone()
    for rank in range(2):  # of each 4 elements two
        own = AdamW(config, flat, shards.pieces(rank), Memory())
        own.load(1, lr)
        own.scale(torch.zeros(2), torch.ones(2), 1.0)
        own.update(dealt, torch.cat([gradient[piece.begin : piece.end] for piece in shards.pieces(rank)]))
    assert_bits_equal(dealt, after, "the same of two ranks that share every range")
    frozen = after.clone()
    optimizer.load(2, lr)
    optimizer.scale(torch.zeros(2), torch.tensor([float("nan"), 1.0]), 1.0)
    optimizer.update(after, gradient)
    assert_bits_equal(after, frozen, "a loss that is no number changes nothing, at any rate")


# ---------------------------------------------------------------- segment


def test_a_rolling_checkpoint_is_due_after_twenty_times_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: a step takes 10 s, a save 3 s, so that 60 s pass between saves; without the share, 30
    s."""
    from pipeline.training import segment as module

    def saves(share: int) -> list[int]:
        now, found = [0.0], []
        trainer = new_trainer(recipe(steps=30))
        monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(module, "SHARE", share)
        save_one, step = trainer.save, trainer.train_step

        def slow_save(path: Path) -> str:
            now[0] += 3.0
            found.append(trainer.step)
            return save_one(path)

        def slow_step(signal: int = 0) -> tuple[chain.Line, int]:
            now[0] += 10.0
            return step(signal)

        trainer.save, trainer.train_step = slow_save, slow_step  # type: ignore[method-assign]
        segment = Segment(trainer, Execution(rolling=25.0), 30, tmp_path / str(share), print)
        assert segment.run(lambda: False, lambda line: None)
        return found

    assert saves(0) == [4, 8, 12, 16, 20, 24, 28]
    assert saves(20) == [4, 12, 20, 28]
