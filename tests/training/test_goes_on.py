"""pytest tests/training/test_goes_on.py

A recipe that goes on with another's run, weights, moments and step, has its bits from there on; one that jumps over batches
is a pure function of step and range: PaLM's remedy for a spike, from the checkpoint before it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from cuda_ops.errors import UserError
from pipeline import spikes
from pipeline.base.checkpoint import load, tensors_digest
from pipeline.base.files import sha256_of
from pipeline.data.samples import Skipped, batch_of, samples_of
from pipeline.evidence.rerun import Rerun
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import Recipe, as_written, cost, load_recipe, parse_recipe, recipe_id
from pipeline.training.segment import Segment
from pipeline.training.trainer import Trainer

STEP = 3


def changed(path: Path, checkpoints: tuple[int, ...] = (), **bits: object) -> Recipe:
    """The tiny recipe with other bits; of a nested one, the keys given."""
    content = as_written(load_recipe(path))
    for key, value in bits.items():
        content["bits"][key] = content["bits"].get(key, {}) | value if key == "batch" else value
    content["artifacts"]["checkpoints"] = list(checkpoints)
    return parse_recipe(content, "changed")


def lines(trainer: Trainer, until: int) -> list[str]:
    return [trainer.train_step()[0].content() for _ in range(trainer.step, until)]


@pytest.fixture(scope="module")
def whole(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of 6 steps that skips outliers: its checkpoint at step 3 with windows, and its lines."""
    recipe = changed(tiny["recipe"], skip={"loss_z": 7.0})
    trainer = Trainer(recipe, Execution(), Ranks(), tiny["tokens"])
    trainer.initialise()
    path = tmp_path_factory.mktemp("whole") / f"step_{STEP:06}.safetensors"
    found = lines(trainer, STEP)
    trainer.save(path)
    return path, found + lines(trainer, 6)


def init_of(path: Path, **more: object) -> dict[str, object]:
    digest = tensors_digest(load(path).tensors)
    return {"kind": "checkpoint", "recipe": "tiny", "step": STEP, "sha256": digest, "steps_done": STEP} | more


def test_a_recipe_that_goes_on_has_the_bits_of_the_run(whole: tuple[Path, list[str]], tiny: dict[str, Path], tmp_path: Path) -> None:  # fmt: skip
    path, expected = whole
    by_file = {"kind": "weights", "path": str(path), "sha256": sha256_of(path), "steps_done": STEP}
    for init in (init_of(path), by_file):
        recipe = changed(tiny["recipe"], skip={"loss_z": 7.0}, init=init)
        trainer = Trainer(recipe, Execution(), Ranks(), tiny["tokens"])
        trainer.initialise(path)
        assert trainer.skipping.series["loss"].values, "windows are taken up too"
        assert lines(trainer, 6) == expected[STEP:]
    assert cost.units(recipe.bits) == 3 * recipe.bits.units
    # Killed after a rolling checkpoint, it goes on from there; replayed, it begins at the file.
    execution = Execution(rolling_steps=1)
    first = Segment(Trainer(recipe, execution, Ranks(), tiny["tokens"]), execution, 6, tmp_path / "s", print, init=path)
    assert not first.run(lambda: first.trainer.step == 4, lambda line: None)
    again = Segment(Trainer(recipe, execution, Ranks(), tiny["tokens"]), execution, 6, tmp_path / "s", print, init=path)
    assert again.resumed == 5
    assert again.run(lambda: False, lambda line: None)
    assert [line.content() for line in again.lines] == expected[STEP:]
    rerun = Rerun(recipe, tiny["tokens"], 5, {}, init=path)
    assert (rerun.steps_on_the_way, rerun.advance().content()) == (1, expected[4])
    with pytest.raises(UserError, match="--step 3: expected 4 to 6"):
        Rerun(recipe, tiny["tokens"], 3, {}, init=path)


def test_what_cannot_be_gone_on_with_is_named(whole: tuple[Path, list[str]], tiny: dict[str, Path], tmp_path: Path) -> None:  # fmt: skip
    path = whole[0]
    with pytest.raises(UserError, match="steps_done 2: the checkpoint is of step 3; give that, or none"):
        changed(tiny["recipe"], init=init_of(path, steps_done=2))
    with pytest.raises(UserError, match="steps_done 3: steps is 3, so none is left"):
        changed(tiny["recipe"], init=init_of(path), steps=3)
    with pytest.raises(UserError, match=r"artifacts\.checkpoints \[3\]: the run goes on after step 3"):
        changed(tiny["recipe"], (3, 5), init=init_of(path))
    tensors = dict(load(path).tensors)
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(safetensors.torch.save({k: v for k, v in tensors.items() if not k.startswith("optimizer.")}))
    for file, done, said in (
        (
            bare,
            STEP,
            r"weights without an optimizer's state, but bits\.init\.steps_done is 3; leave it out to begin at",
        ),
        (path, 4, r"of step 3, bits\.init\.steps_done is 4"),
    ):
        init = {"kind": "weights", "path": str(file), "sha256": sha256_of(file), "steps_done": done}
        with pytest.raises(UserError, match=said):
            Trainer(changed(tiny["recipe"], init=init), Execution(), Ranks(), tiny["tokens"]).initialise()


def test_batches_that_are_skipped_are_read_by_no_step(tiny: dict[str, Path]) -> None:
    base = load_recipe(tiny["recipe"])
    ranges = [[3, 4], [6, 6], [9, 12]]
    recipe = changed(tiny["recipe"], batch={"skip_batches": ranges})
    kept = [n for n in range(1, 40) if not any(a <= n <= b for a, b in ranges)]
    assert [batch_of(step, recipe.bits.batch.skip_batches or ()) for step in range(1, 30)] == kept[:29]
    assert recipe_id(recipe) != recipe_id(base), "it is a bit"
    assert recipe_id(changed(tiny["recipe"], (3,))) == recipe_id(base), "left out, it is none"
    plain, jumping = samples_of(base, tiny["tokens"]), samples_of(recipe, tiny["tokens"])
    assert isinstance(jumping, Skipped)
    for step, batch in ((2, 2), (3, 5), (4, 7), (6, 13), (3, 5)):
        assert (jumping.get(step, 5, 7)["tokens"] == plain.get(batch, 5, 7)["tokens"]).all()
        assert jumping.about(step, 9) == plain.about(batch, 9)
        assert jumping.offset((step - 1) * 32 + 9) == plain.about(batch, 9)["offset"]
    for wrong in ([[4, 3]], [[0, 1]], [[5, 6], [6, 7]], [[5, 6], [2, 3]], []):
        with pytest.raises(UserError, match=r"batch(\.skip_batches|: batch\.skip_batches)"):
            changed(tiny["recipe"], batch={"skip_batches": wrong})


def test_jumping_from_the_checkpoint_before_a_spike_is_jumping_in_one_run(whole: tuple[Path, list[str]], tiny: dict[str, Path]) -> None:  # fmt: skip
    """PaLM's remedy: the run up to step 3, then batches 6, 7, 8 at steps 4, 5, 6; on any micro-batch, replayed and looked at."""
    path, expected = whole
    skip = {"skip_batches": [[4, 5]]}
    one = changed(tiny["recipe"], skip={"loss_z": 7.0}, batch=skip)
    trainer = Trainer(one, Execution(micro_batch=1), Ranks(), tiny["tokens"])
    trainer.initialise()
    found = lines(trainer, 6)
    assert found[:STEP] == expected[:STEP]
    assert found[STEP] != expected[STEP]
    two = changed(tiny["recipe"], skip={"loss_z": 7.0}, batch=skip, init=init_of(path))
    trainer = Trainer(two, Execution(micro_batch=4), Ranks(), tiny["tokens"])
    trainer.initialise(path)
    assert lines(trainer, 6) == found[STEP:]
    assert Rerun(two, tiny["tokens"], 5, {}, init=path).advance().content() == found[4]
    plain = samples_of(load_recipe(tiny["recipe"]), tiny["tokens"])
    shown = spikes.samples_at(two, samples_of(two, tiny["tokens"]), None, 4)
    assert [sample["offset"] for sample in shown] == [plain.about(6, i)["offset"] for i in range(32)]
