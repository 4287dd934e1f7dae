"""pytest tests/models/test_twolayer.py

The two-layer net against float64 and PyTorch's autograd, its bits over micro-batches, lanes on ranks and resumes, and
the room test: a second model needs no change outside models/, recipe/ and data/.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from cuda_ops.errors import UserError
from pipeline.base.checkpoint import load, tensors_digest
from pipeline.evidence.trace import Collector, step_shapes
from pipeline.machine.devices import check_device
from pipeline.models.model import model_of
from pipeline.models.twolayer import TwoLayer
from pipeline.recipe import Gpt2Init
from pipeline.training.trainer import Trainer
from tests.conftest import ROOT
from tests.forks import forking_python
from tests.models.patterns import STEPS, Patterns, advance, new_trainer, recipe
from tests.ports import free_port


def exact(weights: dict[str, torch.Tensor], pixels: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Leaves of autograd in another dtype, and the logits they give."""
    w = {name: weight.detach().clone().to(dtype).requires_grad_() for name, weight in weights.items()}
    hidden = F.gelu(pixels.to(dtype) @ w["fc.weight"].T + w["fc.bias"], approximate="tanh")
    return w | {"logits": hidden @ w["head.weight"].T + w["head.bias"]}


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 2e-6), (torch.float32, 1e-5)])
def test_gradients_agree_with_autograd(dtype: torch.dtype, limit: float) -> None:
    r = recipe()
    model = TwoLayer(r.bits.model, 24)  # type: ignore[arg-type]
    model.initialise(7, r.bits.init)
    for name in ("fc.bias", "head.bias"):
        model.weights[name].uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
    arrays = Patterns(r).get(1, 0, 24)
    lane = model.lane(r.bits.model, arrays)  # type: ignore[arg-type]
    assert torch.equal(lane["pixels"].double() * 256, torch.from_numpy(arrays["pixels"]).double()), "exact"
    grads = model.new_flat()
    model.begin_lane(lane)
    losses = model.accumulate(lane, slice(0, 24), grads, 1 / 24)
    model.finish_lane(lane, grads)
    found = exact(model.weights, lane["pixels"], dtype)
    expected = F.cross_entropy(found["logits"], lane["labels"].long(), reduction="none")
    expected.mean().backward()
    torch.testing.assert_close(losses.to(dtype), expected.detach(), rtol=limit, atol=limit)
    for name, gradient in model.flat.views(grads).items():
        theirs = found[name].grad
        assert theirs is not None
        size = theirs.abs().max().item()
        assert size > 1e-3, name
        assert (gradient.to(dtype) - theirs).abs().max().item() <= limit * size, name


def test_it_learns() -> None:
    r = recipe(steps=40)
    trainer = new_trainer(r)
    trainer.initialise()
    first = trainer.train_step()[0].loss
    while trainer.step < 40:
        line, _ = trainer.train_step()
    assert line.loss < 0.2 * first
    arrays = Patterns(r).get(41, 0, 24)
    model = TwoLayer(r.bits.model, 24, training=False)  # type: ignore[arg-type]
    model.parameters.copy_(trainer.model.parameters[: model.flat.size])
    chosen = model.logits(model.lane(r.bits.model, arrays)["pixels"]).argmax(1)  # type: ignore[arg-type]
    assert (chosen.numpy() == arrays["labels"]).mean() > 0.9


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Link of the last step, digest of the state after it."""
    trainer = new_trainer(recipe(), micro_batch=6)
    trainer.initialise()
    return advance(trainer, STEPS), tensors_digest(trainer.checkpoint().tensors)


@pytest.mark.parametrize("micro_batch", [1, 4, 5])
def test_any_micro_batch_gives_the_same_bits(reference: tuple[str, str], micro_batch: int) -> None:
    trainer = new_trainer(recipe(), micro_batch=micro_batch)
    trainer.initialise()
    assert (advance(trainer, STEPS), tensors_digest(trainer.checkpoint().tensors)) == reference


def test_a_resume_gives_the_same_bits(reference: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "step_000003.safetensors"
    first = new_trainer(recipe())
    first.initialise()
    advance(first, 3)
    first.save(path)
    about = load(path).about
    assert about["model"] == {"kind": "twolayer", "inputs": 63, "hidden": 37, "classes": 5}
    assert (about["recipe"], about["numerics"], about["vocabulary"]) == ("patterns", "fp32", None)
    second = new_trainer(recipe(), micro_batch=2)
    second.restore(load(path))
    assert (advance(second, STEPS), tensors_digest(second.checkpoint().tensors)) == reference


@pytest.mark.parametrize("size", [2, 4])
def test_lanes_on_ranks_give_the_same_bits(reference: tuple[str, str], tmp_path: Path, size: int) -> None:
    port = free_port()
    out = tmp_path / "out.safetensors"
    commands = [
        [forking_python(), "-m", "tests.models.patterns", str(r), str(size), str(port), str(out)] for r in range(size)
    ]
    workers = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [worker.wait(300) for worker in workers] == [0] * size
    stored = load(out)
    assert (stored.link, tensors_digest(stored.tensors)) == reference


def test_a_trace_names_every_tensor_of_a_step() -> None:
    r = recipe()
    found = []
    for micro_batch in (6, 4):
        trainer = new_trainer(r, micro_batch=micro_batch)
        trainer.initialise()
        shapes = step_shapes(r)
        trainer.observe = collector = Collector(shapes, set())
        trainer.train_step()
        names = [seen.name for seen in collector.trace()]
        after = [name for name in shapes if not name.startswith("before/")]
        assert names == after
        found.append([seen.sha256 for seen in collector.trace()])
    assert found[0] == found[1]


def test_what_it_refuses() -> None:
    r = recipe()
    model = TwoLayer(r.bits.model, 1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"bits\.init\.kind gpt2: a two-layer net takes normal"):
        model.initialise(1, Gpt2Init())
    with pytest.raises(ValueError, match="generates nothing"):
        TwoLayer(r.bits.model, 1, decode_batch=1)  # type: ignore[arg-type]
    check_device(r.bits, "cuda")


def test_a_model_is_known_to_models_recipe_and_data_alone() -> None:
    """The room test. Its control: the trainer does build the net that no other room names."""
    assert model_of(recipe().bits.model) is TwoLayer
    assert isinstance(new_trainer(recipe()), Trainer)
    named = re.compile(r"twolayer|two_layer|TwoLayer|\bGpt\b|models\.gpt\b|kind == \"(gpt|twolayer)\"")
    know_it = {"models", "recipe", "data"}
    # Commands of one kind of data, or of GPT's weights alone, which refuse other models.
    texts = {"prepare_text.py", "prepare_questions.py", "sample.py", "import_weights.py", "export_weights.py"}
    files = [
        path
        for path in (ROOT / "pipeline").rglob("*.py")
        if path.relative_to(ROOT / "pipeline").parts[0] not in know_it | texts
    ]
    assert len(files) > 30
    assert named.search((ROOT / "pipeline" / "models" / "twolayer.py").read_text()), "the pattern finds what it should"
    assert [str(path.relative_to(ROOT)) for path in files if named.search(path.read_text())] == []
