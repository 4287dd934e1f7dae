"""pytest tests/models/test_llmc_state.py

A run of llm.c is taken up: files in the layout of its save_state, written here by a few lines of their own, give back every
weight and moment, and a run of ours that went through them goes on bit for bit as if it had not.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline import import_weights
from pipeline.base.checkpoint import load
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.models.llmc import FromLlmc
from pipeline.models.llmc_state import FromLlmcState
from pipeline.recipe import Gpt, load_recipe
from pipeline.training.trainer import Trainer
from tests.bits import assert_bits_equal

BLOCK = (  # params_memory of train_gpt2.cu between wpe and lnf, each array over all layers
    "ln_1.weight", "ln_1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias",
    "ln_2.weight", "ln_2.bias", "mlp.fc.weight", "mlp.fc.bias", "mlp.proj.weight", "mlp.proj.bias",
)  # fmt: skip
STEP = 3


def slices(tensors: Mapping[str, Tensor], prefix: str, layers: int, rank: int, ranks: int) -> bytes:
    """What a rank holds of an array of all parameters: its part of every tensor of every layer."""
    order = ["wte.weight", "wpe.weight", *(f"h.{i}.{name}" for name in BLOCK for i in range(layers))]
    flat = [tensors[prefix + name].reshape(-1).numpy() for name in [*order, "ln_f.weight", "ln_f.bias"]]
    return b"".join(x[rank * len(x) // ranks : (rank + 1) * len(x) // ranks].astype("<f4").tobytes() for x in flat)


def write_run(
    folder: Path, tensors: Mapping[str, Tensor], model: Gpt, ranks: int = 1, zero: int = 1, master: bool = False, shuffled: bool = False
) -> Path:  # fmt: skip
    """model_00000003.bin, in bf16 beside master weights, and the states of all ranks; returns the former."""
    m, parts = model, ranks if zero else 1
    sizes = (m.context, m.vocab_size, m.layers, m.heads, m.channels, m.padded_vocab_size)
    weights = slices(tensors, "", m.layers, 0, 1)
    if master:
        weights = (np.frombuffer(weights, "<u4") >> 16).astype("<u2").tobytes()
    path = folder / f"model_{STEP:08}.bin"
    path.write_bytes(struct.pack("<256i", 20240326, 5 if master else 3, *sizes, *[0] * 248) + weights)
    for rank in range(ranks):
        head = [20240527, 1, ranks, rank, int(master), int(shuffled), 0, 0, 0, 0, STEP, *[0] * 245]
        head[20:24] = [7, 8, 9, 10]  # random numbers, and the loader's place
        head[30:34] = [1, 0, 5, 0]
        arrays = ["optimizer.m.", "optimizer.v.", *([""] if master else [])]
        body = b"".join(slices(tensors, array, m.layers, rank % parts, parts) for array in arrays)
        loader = struct.pack("<Q3iQ5i", 3, 2, 0, 1, 5, 4, 3, 2, 1, 0) + bytes(2520) if shuffled else b""
        (folder / f"state_{STEP:08}_{rank:05}.bin").write_bytes(struct.pack("<256i", *head) + body + loader)
    return path


@pytest.fixture(scope="module")
def through(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The tiny run's checkpoint at step 3, and the lines of its chain."""
    trainer = Trainer(load_recipe(tiny["recipe"]), Execution(), Ranks(), tiny["tokens"])
    trainer.initialise()
    lines, path = [], tmp_path_factory.mktemp("through") / "step.safetensors"
    for step in range(1, 7):
        lines.append(trainer.train_step()[0].content())
        if step == STEP:
            trainer.save(path)
    return path, lines


@pytest.mark.parametrize(
    "flags", [{}, {"ranks": 4, "master": True, "shuffled": True}, {"ranks": 2, "zero": 0}, {"shuffled": True}], ids=str
)
def test_a_run_of_llm_c_is_taken_up(
    flags: dict[str, int], through: tuple[Path, list[str]], tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    before, config = load(through[0]).tensors, load_recipe(tiny["recipe"]).bits.model
    assert isinstance(config, Gpt)
    path = write_run(tmp_path, before, config, **flags)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    said = import_weights.take_up(path, tiny["recipe"], "taken_up")
    assert "results/recipes/taken_up.yaml: goes on after step 3 of 6" in said
    recipe = load_recipe("results/recipes/taken_up.yaml")
    assert (recipe.bits.start, recipe.checkpoints) == (3, (6,))
    trainer = Trainer(recipe, Execution(), Ranks(), tiny["tokens"])
    trainer.initialise()
    for prefix, flat in trainer.flats().items():
        for name, view in trainer.model.flat.views(flat).items():
            assert_bits_equal(view, before[prefix + name], prefix + name)
    assert before["optimizer.v.wte.weight"].any(), "there is something to carry over"
    assert [trainer.train_step()[0].content() for _ in range(3)] == through[1][3:]


def test_without_master_weights_those_of_the_model_count(through: tuple[Path, list[str]], tmp_path: Path, tiny: dict[str, Path]) -> None:  # fmt: skip
    before, config = load(through[0]).tensors, load_recipe(tiny["recipe"]).bits.model
    assert isinstance(config, Gpt)
    path = write_run(tmp_path, before, config, master=True)
    state = tmp_path / f"state_{STEP:08}_00000.bin"
    content = bytearray(state.read_bytes())
    content[16:20] = bytes(4)
    state.write_bytes(content[: 1024 + 8 * sum(t.numel() for name, t in before.items() if "optimizer" not in name)])
    found = FromLlmcState(FromLlmc(path))["wte.weight"]
    assert torch.equal(found, (before["wte.weight"].view(torch.int32) >> 16 << 16).view(torch.float32))


def test_what_is_wrong_with_the_files_is_named(through: tuple[Path, list[str]], tmp_path: Path, tiny: dict[str, Path]) -> None:  # fmt: skip
    before, config = load(through[0]).tensors, load_recipe(tiny["recipe"]).bits.model
    assert isinstance(config, Gpt)
    path = write_run(tmp_path, before, config, ranks=2)
    states = [tmp_path / f"state_{STEP:08}_{rank:05}.bin" for rank in range(2)]
    sound = [state.read_bytes() for state in states]
    assert len(FromLlmcState(FromLlmc(path))) == 3 * len(FromLlmc(path)), "the control"

    def refused(message: str, content: bytes | None = None, at: int = -1, value: int = 0) -> None:
        head = list(struct.unpack("<256i", sound[1][:1024]))
        if at >= 0:
            head[at] = value
        states[1].write_bytes(struct.pack("<256i", *head) + sound[1][1024:] if content is None else content)
        with pytest.raises(UserError, match=message):
            dict(FromLlmcState(FromLlmc(path)))
        states[1].write_bytes(sound[1])

    refused(r"_00001\.bin: no training state of llm\.c", at=0, value=20240326)
    refused(r"_00001\.bin: version 2 of llm\.c's training state; read is 1", at=1, value=2)
    refused(r"a run of 8 processes, and 2 of their files lie here: bring the state_\*\.bin of all", at=2, value=8)
    refused(r"_00001\.bin: of rank 0, its name says 1", at=3)
    refused("some of its state files have master weights, others have none", at=4, value=1)
    refused(r"_00001\.bin: of step 4, its name says 3", at=10, value=4)
    refused(r"_00001\.bin: \d+ bytes are not 2 arrays of \d+ parameters, nor of 1/2 of them: cut off", sound[1][:-4])
    refused(r"_00001\.bin: .*cut off", at=5, value=1)  # a loader's lists that are not there
    nan = bytearray(sound[1])
    nan[1024:1028] = struct.pack("<f", float("nan"))
    refused(r"_00001\.bin: wte\.weight holds nan", bytes(nan))
    nan[1024:1028] = sound[1][1024:1028]
    nan[-4:] = struct.pack("<f", -1.0)
    refused(r"the second moment of ln_f\.bias holds -1\.0: damaged", bytes(nan))
    states[1].unlink()
    with pytest.raises(UserError, match="a run of 2 processes, and 1 of their files"):
        FromLlmcState(FromLlmc(path))
    states[0].unlink()
    with pytest.raises(UserError, match=r"no state_00000003_<rank>\.bin beside it: bring them, or leave --state out"):
        import_weights.take_up(path, tiny["recipe"], "x")
    with pytest.raises(UserError, match=r"llm\.c names the model of a run model_<step>\.bin"):
        FromLlmcState(FromLlmc(path.rename(tmp_path / "gpt2_124M.bin")))
    write_run(tmp_path, before, config)
    text = tiny["recipe"].read_text()
    short = tmp_path / "short.yaml"
    short.write_text(re.sub(r"checkpoints: \[3\]", "checkpoints: []", text.replace("steps: 6", "steps: 3")))
    with pytest.raises(UserError, match=r"of step 3, recipe .*short\.yaml ends at step 3: none is left"):
        import_weights.take_up(path, short, "x")
    with pytest.raises(UserError, match=r"--state is for llm\.c's model_<step>\.bin"):
        import_weights.take_up(through[0], tiny["recipe"], "x")
