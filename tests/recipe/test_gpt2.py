"""pytest tests/recipe/test_gpt2.py

The full-size recipes against llm.c's scripts, and what `python -m pipeline.recipe` says that a run takes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.machine.execution import Execution
from pipeline.machine.memory import Memory
from pipeline.machine.ranks import Ranks
from pipeline.recipe import cost, load_recipe
from pipeline.training.trainer import Trainer, bytes_needed
from tests.conftest import ROOT, run
from tests.forks import forked

FOLDER = ROOT / "config" / "recipes"
# llm.c f1e2ace, scripts/run_<name>.sh and train_gpt2.cu: layers, heads, channels, context; parameters, and with the padded
# vocabulary; total batch in tokens, steps; peak, final fraction.
SCRIPTS = {
    "gpt2_124m": (12, 12, 768, 1024, 124_439_808, 124_475_904, 524_288, 18_865, 6e-4, 0.0),
    "gpt2_350m": (24, 16, 1024, 1024, 354_823_168, 354_871_296, 524_288, 60_000, 3e-4, 0.0),
    "gpt2_774m": (36, 20, 1280, 1024, 774_030_080, 774_090_240, 524_288, 286_102, 2.5e-4, 0.0),
    "gpt2_1558m": (48, 25, 1600, 1024, 1_557_611_200, 1_557_686_400, 1_048_576, 32_000, 6e-4, 0.1),
    "gpt3_125m": (12, 12, 768, 2048, 125_226_240, 125_262_336, 524_288, 572_204, 6e-4, 0.1),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_numbers_are_those_of_llm_c(name: str) -> None:
    layers, heads, channels, context, parameters, padded, batch, steps, peak, final = SCRIPTS[name]
    bits = load_recipe(FOLDER / f"{name}.yaml").bits
    model, optimizer, schedule = bits.model, bits.optimizer, bits.schedule
    assert model.kind == "gpt"
    assert (model.layers, model.heads, model.channels, model.context) == (layers, heads, channels, context)
    assert (model.vocab_size, model.padded_vocab_size) == (50257, 50304)
    assert (model.parameters, cost.padded_parameters(bits)) == (parameters, padded)
    assert (bits.units, bits.steps) == (batch, steps)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.9, 0.95, 1e-8)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.1, 1.0)
    assert schedule.kind == "cosine"
    assert (schedule.peak, schedule.final_fraction, schedule.warmup_steps) == (peak, final, 700)
    assert bits.init.kind == "gpt2"
    assert bits.init.std == 0.02
    skip = None if bits.skip is None else (bits.skip.loss_z, bits.skip.norm_z)
    assert skip == ((7.0, 7.0) if name == "gpt3_125m" else None)


@pytest.mark.parametrize("name", ["openai_gpt2", "openai_gpt2_xl"])
def test_openai_s_models_are_pinned_and_make_no_step(name: str) -> None:
    """Sizes of the hub's files: 4 bytes per parameter, a mask of 1024 x 1024 per layer, a header."""
    bits = load_recipe(FOLDER / f"{name}.yaml").bits
    assert bits.steps == 0
    assert bits.init.kind == "weights"
    assert bits.init.bytes is not None
    assert bits.model.kind == "gpt"
    header = bits.init.bytes - 4 * bits.model.parameters - bits.model.layers * 4 * 1024 * 1024
    assert 80 < header / (13 * bits.model.layers + 4) < 110
    assert cost.units(bits) == 0


def test_decay_is_for_the_six_kinds_of_matrix_that_llm_c_decays() -> None:
    from pipeline.models.gpt import Gpt

    model = load_recipe(FOLDER / "gpt2_124m.yaml").bits.model
    assert model.kind == "gpt"
    table = Gpt.table(model)
    decayed = {name.removeprefix("h.").lstrip("0123456789.") for name, parameter in table.items() if parameter.decay}
    kinds = {"attn.qkv.weight", "attn.proj.weight", "mlp.fc.weight", "mlp.proj.weight"}
    assert decayed == kinds | {"wte.weight", "wpe.weight"}


def test_operations_are_counted_as_published() -> None:
    """MFU of llm.c's runs from their times (facts in docs/recipes/gpt2.md): 124M 300 ms on 8 A100, 1558M 2.7 s on 8 H100."""
    small, large = (load_recipe(FOLDER / f"{name}.yaml").bits for name in ("gpt2_124m", "gpt2_1558m"))
    assert round(cost.mfu(small, small.units / 0.300, 312.0, 8), 3) == 0.563
    assert round(cost.mfu(small, small.units / 0.140, 988.8, 8), 3) == 0.380
    assert round(cost.mfu(large, large.units / 2.7, 988.8, 8), 3) == 0.482
    assert f"{cost.flops_6nd(small):.2e}" == "7.38e+18"
    assert f"{cost.flops_6nd(large):.2e}" == "3.14e+20"
    hour = cost.Price(8, cost.mfu(large, large.units / 2.7, 988.8, 8), 988.8, 3.5)
    assert round(hour.hours(large), 2) == 24.0
    assert round(hour.dollars(large)) == 672
    assert cost.checkpoint_bytes(large) == 12 * 1_557_686_400


def test_a_run_of_less_than_a_minute_has_no_hours_and_no_price() -> None:
    from pipeline.recipe.__main__ import facts

    price = cost.Price(8, 0.5, 66.9, 3.5)
    small, large = ROOT / "tests" / "recipes" / "tiny.yaml", FOLDER / "gpt2_124m.yaml"
    for path, asked, named in ((small, False, False), (small, True, True), (large, False, True)):
        labels = {label for label, _ in facts(load_recipe(path), price, asked)}
        assert (labels & {"hours", "dollars"} == {"hours", "dollars"}, "FLOPs, 6ND" in labels) == (named, True)
        assert named or not labels & {"hours", "dollars"}


class Place(Ranks):
    """A rank of several that never talks."""

    def __init__(self, rank: int, ranks: int) -> None:
        import torch

        self.rank, self.size, self.device = rank, ranks, torch.device("cpu")


@pytest.mark.parametrize(("ranks", "buffers"), [(1, 3), (2, 2), (4, 1)])
def test_memory_is_that_of_the_buffers_which_are_allocated(tiny: dict[str, Path], ranks: int, buffers: int) -> None:
    recipe, execution = load_recipe(tiny["recipe"]), Execution(micro_batch=2)
    allocated = []

    class Recording(Memory):
        def zeros(self, *shape, dtype=None, **kwargs):  # type: ignore[no-untyped-def]
            found = super().zeros(*shape, **kwargs) if dtype is None else super().zeros(*shape, dtype=dtype, **kwargs)
            allocated.append(found.untyped_storage().nbytes())
            return found

    trainer = Trainer(recipe, replace(execution, ranks=ranks), Place(0, ranks), tiny["tokens"], Recording())
    assert bytes_needed(recipe, replace(execution, ranks=ranks), ranks) == sum(allocated)
    assert len(trainer.counter._buffers) == buffers
    said = run("-m", "pipeline.recipe", str(tiny["recipe"]), "--device", "cpu", "--micro-batch", "2")
    line = next(line for line in said.splitlines() if line.startswith(f"  {ranks} rank"))
    assert f"{sum(allocated) / 2**20:.1f} MiB  of it {buffers} gradient buffer" in line


def test_without_the_library_all_is_said_but_the_memory(tmp_path: Path) -> None:
    said = run("-m", "pipeline.recipe", "fables_int8x3", "--devices", "8", env={"SAMEBITS_BUILD": str(tmp_path)})
    assert "tokens trained on" in said
    assert "on 8 devices of 659.667 TFLOP/s" in said  # a third of 1,979
    words = f"memory of a rank         not counted: {tmp_path}/samebits_ops.so: the ops are not compiled; run: python -m pipeline"
    assert f"{words}.compile --out {tmp_path}" in said


def test_a_recipe_is_found_by_name_and_a_false_price_refused() -> None:
    said = run("-m", "pipeline.recipe", "gpt2_124m", "--devices", "8", "--peak", "988.8", "--mfu", "0.38")
    assert "9,890,693,120" in said
    assert "7.385e+18" in said
    assert "0.734 on 8 devices" in said  # 18,865 steps of 140 ms
    assert "7 gradient buffers of 475" in said or "7 gradient buffers of 0.46 GiB" in said
    assert "--mfu: 0: expected a number above 0" in run("-m", "pipeline.recipe", "gpt2_124m", "--mfu", "0", code=2)
    assert "no such recipe" in run("-m", "pipeline.recipe", "gpt2_125m", code=2)


def dry_run(name: str) -> str:
    """What snakemake -n prints, for a recipe of the project, without data."""
    words = ["-m", "snakemake", "-n", "--quiet", "host", "--config", f"recipe={name}", "--", "reproduction"]
    code, said, errors = forked("snakemake", words, ROOT, dict(os.environ))
    assert code == 0, errors
    return said


ALL = [*SCRIPTS, "openai_gpt2", "openai_gpt2_xl", "shakespeare_finetune"]


@pytest.mark.parametrize("names", ["gpt2_124m,openai_gpt2", ",".join(ALL)], ids=["two", "all"])
def test_the_graph_of_a_recipe_needs_no_data(names: str) -> None:
    shown = dry_run(names)
    assert ("weights" in shown.split()) == ("openai" in names)
    count = next(line.split()[1] for line in shown.splitlines() if line.startswith("train "))
    assert int(count) == sum(len(load_recipe(FOLDER / f"{name}.yaml").checkpoints) for name in names.split(","))
