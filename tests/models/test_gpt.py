"""pytest tests/models/test_gpt.py

The GPT against the paper's parameter counts, against float64 gradients, and 100 training steps against a PyTorch model
of the same weights and data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.torch_gpt import TorchGpt
from cuda_ops import ops
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.models.gpt import Gpt
from pipeline.recipe import Gpt as Config
from pipeline.recipe import Gpt2Init, load_recipe
from pipeline.training.trainer import Trainer
from tests.bits import assert_bits_equal


def config(
    layers: int = 2, heads: int = 2, channels: int = 24, context: int = 17, vocab: int = 50, padded: int = 64
) -> Config:
    return Config(
        kind="gpt",
        layers=layers,
        heads=heads,
        channels=channels,
        context=context,
        vocab_size=vocab,
        padded_vocab_size=padded,
    )


@pytest.mark.parametrize(
    ("layers", "heads", "channels", "count"),
    [
        (12, 12, 768, 124_439_808),
        (24, 16, 1024, 354_823_168),
        (36, 20, 1280, 774_030_080),
        (48, 25, 1600, 1_557_611_200),
    ],
)
def test_parameter_counts_are_the_papers(layers: int, heads: int, channels: int, count: int) -> None:
    """GPT-2's four sizes with vocabulary 50257 and context 1024."""
    assert config(layers, heads, channels, 1024, 50257, 50304).parameters == count


def batch(cfg: Config, b: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    windows = torch.randint(0, cfg.vocab_size, (b, cfg.context + 1), generator=generator, dtype=torch.int32)
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def gradients(model: Gpt, tokens: torch.Tensor, targets: torch.Tensor, scale: float) -> torch.Tensor:
    grads = model.new_flat()
    lane = Gpt.lane(model.config, {"tokens": tokens.numpy(), "targets": targets.numpy()})
    model.begin_lane(lane)
    model.accumulate(lane, slice(0, len(tokens)), grads, scale)
    model.finish_lane(lane, grads)
    return grads


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_agree_with_float64(recompute: bool) -> None:
    cfg = config()
    model = Gpt(cfg, 3, recompute=recompute)
    model.initialise(3, Gpt2Init(std=0.2))
    tokens, targets = batch(cfg, 3)
    scale = 1 / tokens.numel()
    grads = model.flat.views(gradients(model, tokens, targets, scale))
    exact = TorchGpt(cfg).double()
    exact.load({name: weight.double() for name, weight in model.weights.items()})
    exact.loss(tokens.long(), targets.long()).backward()
    expected = exact.named_gradients()
    assert set(expected) == set(grads)
    for name, gradient in expected.items():
        got = grads[name][: cfg.vocab_size] if name == "wte.weight" else grads[name]
        size = gradient.abs().max().item()
        assert (got.double() - gradient).abs().max().item() <= 2e-5 * size + 1e-9, name
    assert (grads["wte.weight"][cfg.vocab_size :] == 0).all()


def test_losses_of_a_hundred_steps_agree_with_pytorch(tiny: dict[str, Path], tmp_path: Path) -> None:
    text = tiny["recipe"].read_text().replace("steps: 6", "steps: 100")
    (tmp_path / "hundred.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "hundred.yaml")
    trainer = Trainer(recipe, Execution(micro_batch=8), Ranks(), tiny["tokens"])
    trainer.initialise()
    assert recipe.bits.model.kind == "gpt"
    other = TorchGpt(recipe.bits.model)
    other.load({name: weight.clone() for name, weight in trainer.model.weights.items()})
    o = recipe.bits.optimizer
    matrices = [p for p in other.parameters() if p.dim() > 1]
    vectors = [p for p in other.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1.0, (o.beta1, o.beta2), o.eps)
    for step in range(1, 101):
        line, _ = trainer.train_step()
        arrays = trainer.samples.get(step, 0, recipe.bits.batch.sequences)
        tokens, targets = (torch.from_numpy(arrays[name]) for name in ("tokens", "targets"))
        loss = other.loss(tokens.long(), targets.long())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(other.parameters(), o.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = line.lr
        optimizer.step()
        assert line.loss == pytest.approx(loss.item(), rel=2e-4), f"step {step}"
        assert line.norm == pytest.approx(norm.item(), rel=1e-2), f"step {step}"
    assert line.loss < 3.0, "it must have learnt something"


def test_decoding_gives_the_logits_of_the_full_forward() -> None:
    cfg = config()
    model = Gpt(cfg, 2, training=False, decode_batch=2)
    model.initialise(1, Gpt2Init())
    tokens, _ = batch(cfg, 2)
    full = torch.empty(2, cfg.context, cfg.padded_vocab_size)
    hidden = model._forward(tokens).clone()
    ops.matmul(full, hidden, model.weights["wte.weight"])
    logits = model.decode(tokens[:, :5].contiguous(), 0)
    assert_bits_equal(logits, full[:, 4], "prefill")
    for t in range(5, cfg.context):
        logits = model.decode(tokens[:, t : t + 1].contiguous(), t)
        assert_bits_equal(logits, full[:, t], f"token {t}")


def test_pieces_of_logits_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config()
    tokens, targets = batch(cfg, 3)
    results = []
    for size in (2**26, 4 * 64 * 7):
        monkeypatch.setattr("pipeline.models.gpt.LOGITS_BYTES", size)
        model = Gpt(cfg, 3)
        model.initialise(2, Gpt2Init())
        results.append(gradients(model, tokens, targets, 0.01))
    assert_bits_equal(results[1], results[0], "gradients")


class Late:
    """A branch that does its work as late as it may: when it is joined, or here, never before `joins` joins."""

    def __init__(self, joins: int) -> None:
        self.work: list[tuple[int, Callable[[], None]]] = []
        self.joins = joins

    def run(self, work: Callable[[], None]) -> None:
        self.work.append((self.joins, work))

    def join(self) -> None:
        left = [(joins - 1, work) for joins, work in self.work]
        self.work = [(joins, work) for joins, work in left if joins > 0]
        for joins, work in left:
            if joins <= 0:
                work()


@pytest.mark.parametrize("joins", [1, 2])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("room", [2**26, 2**12])
def test_products_beside_each_other_change_nothing(
    monkeypatch: pytest.MonkeyPatch, joins: int, recompute: bool, room: int
) -> None:
    """What is queued up to the join neither reads nor writes what the branch does; up to the join after it, it would.

    room: bytes of the logits' buffer, which holds the gradient of GELU or is too small for it.
    """
    monkeypatch.setattr("pipeline.models.gpt.LOGITS_BYTES", room)
    monkeypatch.setattr("pipeline.models.gpt.LOGITS_ROWS", {"cpu": 8})
    cfg = config(padded=128)
    tokens, targets = batch(cfg, 3)
    results = []
    for late in (False, True):
        model = Gpt(cfg, 3, recompute=recompute)
        model.initialise(2, Gpt2Init())
        assert (model._logits.numel() >= model._wide.numel()) == (room > 2**12)
        if late:
            model.beside = Late(joins)  # type: ignore[assignment]
        results.append(gradients(model, tokens, targets, 0.01))
    if joins == 1:
        assert_bits_equal(results[1], results[0], "gradients")
    else:
        assert not torch.equal(results[1], results[0])


NO_ATEN = """
import sys, torch
from pathlib import Path
from torch.utils._python_dispatch import TorchDispatchMode
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import Trainer
MOVES = {'detach', 'view', 'slice', 'select', 'unbind', 'empty', 'zeros', 'zero_', 'copy_', 'clone', 'fill_', 'as_strided',
         'alias', '_local_scalar_dense', 'item', 'unsqueeze', '_unsafe_view', 'reshape', 'expand', 'lift_fresh', 'clone', '_to_copy',
         'empty_strided', 'stack', 'new_empty', 't', 'split', 'contiguous'}
seen = set()
class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        space, name = op._schema.name.split('::')
        if space != 'samebits' and name not in MOVES:
            floats = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
            if floats: raise AssertionError(f'ATen arithmetic on floats: {op}')
        seen.add(f'{space}::{name}')
        return op(*args, **(kwargs or {}))
recipe = load_recipe(sys.argv[1])
trainer = Trainer(recipe, Execution(micro_batch=4, recompute=True), Ranks(), Path(sys.argv[2]))
with Watch():
    trainer.initialise()
    for _ in range(2): trainer.train_step()
    state = trainer.checkpoint().tensors
    for name in state: state[name]
    if len(sys.argv) > 3: trainer.model.parameters * 2
print(len([s for s in seen if s.startswith('samebits')]), 'ops')
"""


def test_no_aten_arithmetic_on_floats(tiny: dict[str, Path]) -> None:
    """A dispatch mode that raises on any ATen float operation which is not a move; the control shows that it can."""
    from tests.conftest import run

    arguments = [str(tiny["recipe"]), str(tiny["tokens"])]
    assert "20 ops" in run("-c", NO_ATEN, *arguments)
    assert "ATen arithmetic on floats: aten.mul" in run("-c", NO_ATEN, *arguments, "sabotage", code=1)
