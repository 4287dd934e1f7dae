"""pytest tests/evidence/test_sabotage.py

The harness can see. Each control alters one thing in a run of the tiny recipe; the comparison must turn red and name the step
and the tensor. A control that does not fire is a failure here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.base import chain
from pipeline.base.checkpoint import Checkpoint, load, save
from pipeline.evidence.comparison import Comparison, Result
from pipeline.evidence.sides import Side
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import load_recipe
from pipeline.training.trainer import Trainer
from tests.conftest import ROOT, run
from tests.evidence.variants import LEVEL, Variant

pytestmark = pytest.mark.usefixtures("forking")
STEPS = 3
ENV = {"OMP_NUM_THREADS": "1", "SAMEBITS_ISA": LEVEL}


@dataclass
class Control:
    """step: of the first line that differs; tensor: that must be named; cause: a word of the likely cause, None where receipts and
    digests cannot know it, so that no cause may be named; hidden: steps before."""

    variant: Variant
    step: int
    tensor: str
    cause: str | None
    hidden: int = 0


# The foreign library that switches flush-to-zero on when it is loaded, as those linked with -ffast-math do.
FOREIGN = (
    "#include <xmmintrin.h>\n__attribute__((constructor)) static void on(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }\n"
)

UNGUARDED = (
    "namespace samebits {\nnamespace SAMEBITS_ISA {\n",
    "namespace samebits {\nnamespace SAMEBITS_ISA {\ntemplate <class F> static void unguarded(int64_t n, F f) { f((int64_t)0, n); }\n",
)
CONTROLS = [
    Control(
        Variant("two lanes swapped", [("pipeline/training/trainer.py", "for i in range(final):", "for i in [2, 1, 0]:")]),
        1, "gradient/", "other code of the trainer",
    ),
    Control(
        Variant(
            "left fold", [("pipeline/training/lanes.py", "carries = _trailing_ones(self._lanes)", "carries = len(self._waiting)")]
        ),
        1, "gradient/", "other code of the trainer",
    ),
    Control(
        Variant("counter of the order off by one", [("pipeline/data/order.py", "words(2 * first", "words(1 + 2 * first")]),
        1, "lane.0/tokens", "other data",
    ),
    Control(
        Variant(
            "counter of the initial weights off by one",
            [("pipeline/models/gpt.py", "int(Stream.INIT), offset,", "int(Stream.INIT), offset + 1,")],
        ),
        1, "before/wte.weight", "other initial weights",
    ),
    Control(
        Variant(
            "a micro-batch that does not continue the chain",
            [
                ("pipeline/training/trainer.py", "            losses = model.accumulate(lane, part, grads,",
                 "            own = model.new_flat()\n            losses = model.accumulate(lane, part, own,"),
                ("pipeline/training/trainer.py", "            ops.chain_sum(loss, losses)\n",
                 "            ops.add(grads, grads, own)\n            ops.chain_sum(loss, losses)\n"),
            ],
        ),
        1, "lane.0/gradient/ln_f.bias", "other code of the trainer",
    ),
    Control(
        Variant("contraction in one file", kernel="layernorm", flags="-ffp-contract=fast"),
        1, "lane.0/d.h.1.middle", None,  # one object compiled by other hands: the declared flags, which receipts hold, are the same
    ),
    Control(
        Variant(
            "libm's exp",
            [
                ("cuda_ops/cpu/cross_entropy.cpp", "exp_(", "expf("),
                ("cuda_ops/cpu/cross_entropy.cpp", "namespace samebits {\nnamespace", 'extern "C" float expf(float);\nnamespace samebits {\nnamespace'),
            ],
            kernel="cross_entropy",
        ),
        1, "lane.0/losses", "other sources",
    ),
    Control(
        Variant(
            "flush to zero by a foreign library",
            [("cuda_ops/cpu/adamw.cpp", *UNGUARDED), ("cuda_ops/cpu/adamw.cpp", "parallel_for(n, 6, ", "unguarded(n, "),
             ("cuda_ops/cpu/adamw.cpp", "  FloatEnvironment environment;\n", "")],
            kernel="adamw", env={"LD_PRELOAD": "foreign.so"},
        ),
        2, "after/optimizer.v.", "other sources", hidden=1,
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def settings(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The tiny recipe, and the same with weights so small that second moments are subnormal."""
    small = tmp_path_factory.mktemp("small") / "tiny.yaml"
    text = tiny["recipe"].read_text()
    assert "  model:" in text
    small.write_text(text.replace("  model:", "  init: {kind: gpt2, std: 1.0e-17}\n  model:"))
    return {"": tiny, "flush": tiny | {"recipe": small}}


def trained(setting: dict[str, Path], out: Path, code: Path = ROOT, build: Path | None = None, **env: str) -> Path:
    """A run of a few steps in a process of its own."""
    merged = (
        os.environ | ENV | {"PYTHONPATH": str(code), "SAMEBITS_BUILD": str(build or ROOT / "results" / "build")} | env
    )
    command = [
        sys.executable, "-m", "pipeline.train", "--recipe", str(setting["recipe"]), "--tokens", str(setting["tokens"]),
        "--steps-to", str(STEPS), "--out", str(out / f"step_{STEPS:06d}.safetensors"), "--micro-batch", "4",
        "--chain", str(out / f"chain_{STEPS:06d}.tsv"), "--state", str(out / "state"), "--threads", "1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=code, env=merged, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def side(name: str, setting: dict[str, Path], path: Path, **other: object) -> Side:
    given = {"recipe_path": setting["recipe"], "tokens": setting["tokens"], "env": dict(ENV)}
    return Side(name, path, **(given | other)).read()  # type: ignore[arg-type]


def sides(setting: dict[str, Path], a: Side, b: Path, **of_b: object) -> Comparison:
    return Comparison(a, side("B", setting, b, **of_b))


def outcome(control: Control, setting: dict[str, Path], sound: Side, folder: Path) -> Result:
    """Train with the variant, then compare."""
    code, build = control.variant.make(folder)
    env = dict(control.variant.env)
    if "LD_PRELOAD" in env:
        (folder / "foreign.c").write_text(FOREIGN)
        env["LD_PRELOAD"] = str(folder / env["LD_PRELOAD"])
        subprocess.run(["gcc", "-shared", "-fPIC", "foreign.c", "-o", env["LD_PRELOAD"]], cwd=folder, check=True)
    out = trained(setting, folder / "run", code, build, **env)
    found = sides(setting, sound, out, code=code, build=build, env=ENV | env)
    found.run(1)
    return found.result


@pytest.fixture(scope="module")
def sound(settings: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Side]:
    """Side A, once: its steps are computed again once, too."""
    return {name: side("A", s, trained(s, tmp_path_factory.mktemp("sound"))) for name, s in settings.items()}


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    settings: dict[str, dict[str, Path]],
    sound: dict[str, Side],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Result]:
    """The comparison of every control that was asked for, two at a time."""
    asked = [item.callspec.params.get("control") for item in request.session.items if hasattr(item, "callspec")]
    chosen = [control for control in CONTROLS if control in asked]

    def one(control: Control) -> Result:
        key = "flush" if control.variant.name.startswith("flush") else ""
        return outcome(control, settings[key], sound[key], tmp_path_factory.mktemp("control"))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip((c.variant.name for c in chosen), pool.map(one, chosen), strict=True))


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.variant.name)
def test_a_variant_is_seen_and_named(control: Control, outcomes: dict[str, Result]) -> None:
    found = outcomes[control.variant.name]
    assert not found.equal, "the control did not fire"
    assert (found.step, found.tensor_step) == (control.step, control.step - control.hidden)
    assert found.tensor is not None, found
    assert found.tensor.name.startswith(control.tensor), found.tensor.words()
    if control.cause is None:
        assert not found.causes
    else:
        assert control.cause in " ".join(found.causes), found.causes
    if control.variant.name == "two lanes swapped":
        assert any("order of computation differs" in note for note in found.notes), found.notes


def test_the_foreign_library_alone_changes_nothing(
    settings: dict[str, dict[str, Path]], sound: dict[str, Side], tmp_path: Path
) -> None:
    """The guard that the control removes: with it, flush-to-zero in every thread gives the same bits."""
    (tmp_path / "foreign.c").write_text(FOREIGN)
    subprocess.run(["gcc", "-shared", "-fPIC", "foreign.c", "-o", "foreign.so"], cwd=tmp_path, check=True)
    out = trained(settings["flush"], tmp_path / "run", LD_PRELOAD=str(tmp_path / "foreign.so"))
    found = sides(settings["flush"], sound["flush"], out)
    found.run(None)
    assert found.result.equal, found.result
    trainer = Trainer(load_recipe(settings["flush"]["recipe"]), Execution(), Ranks(), settings["flush"]["tokens"])
    trainer.initialise()
    trainer.train_step()
    bits = trainer.optimizer.state["v"].view(torch.int32)
    assert ((bits > 0) & (bits < 0x00800000)).any(), "the setting must have subnormal moments, or nothing could fire"


def altered_run(setting: dict[str, Path], out: Path, step: int, after: bool) -> tuple[int, ...]:
    """A run in which the largest weight of a matrix moves by an ulp, in memory, before a step or after its update; its index."""
    trainer = Trainer(load_recipe(setting["recipe"]), Execution(), Ranks(), setting["tokens"])
    trainer.initialise()
    lines: list[chain.Line] = []
    flipped: list[tuple[int, ...]] = []

    def flip() -> None:
        weights = trainer.model.weights["h.0.attn.qkv.weight"]
        at = tuple(int(i) for i in np.unravel_index(int(weights.abs().argmax()), weights.shape))
        flipped.append(at)
        weights.view(torch.int32)[at] += 1

    update = trainer.update

    def late(gradient: torch.Tensor) -> None:
        update(gradient)
        if after and trainer.step == step - 1:
            flip()

    trainer.update = late  # type: ignore[assignment]
    while trainer.step < STEPS:
        if not after and trainer.step == step - 1:
            flip()
        line = trainer.train_step()[0].linked(trainer.link)
        trainer.link = line.link
        lines.append(line)
        trainer.save(out / f"step_{line.step:06d}.safetensors")
    chain.write(out / f"chain_{STEPS:06d}.tsv", lines)
    return flipped[0]


@pytest.mark.parametrize("after", [False, True], ids=["before the step", "after its update"])
def test_one_ulp_in_one_weight_is_located(
    settings: dict[str, dict[str, Path]], sound: dict[str, Side], tmp_path: Path, after: bool
) -> None:
    """Both sides have one code, so the recorded state is held against the step computed again."""
    at, out = altered_run(settings[""], tmp_path, 2, after), tmp_path
    if after:  # the chain alone is enough
        for path in out.glob("step_*"):
            path.unlink()
    found = sides(settings[""], sound[""], out)
    found.run(1)
    result = found.result
    assert not result.equal
    assert result.step == 2
    assert result.sound.startswith("A")
    assert result.tensor is not None, result.notes
    assert result.tensor.name == f"{'after' if after else 'before'}/h.0.attn.qkv.weight", result.tensor
    assert result.tensor.index == at
    assert result.tensor.ulps == 1
    assert any("was altered on side B" in cause for cause in result.causes), result.causes


def flip(path: Path) -> None:
    """Flip a bit of a checkpoint, as somebody would who writes its digest anew."""
    state = load(path)
    tensors = dict(state.tensors)
    tensors["h.1.mlp.fc.weight"].view(torch.int32)[3, 4] ^= 1 << 20
    save(path, Checkpoint(state.step, state.recipe_id, state.link, tensors, state.about))


def checkpointed_run(setting: dict[str, Path], out: Path, altered: bool) -> Path:
    """A run with a checkpoint of every step; altered: of the first one a bit is flipped, and the run resumes from it."""
    trainer = Trainer(load_recipe(setting["recipe"]), Execution(), Ranks(), setting["tokens"])
    trainer.initialise()
    lines: list[chain.Line] = []
    while trainer.step < STEPS:
        line = trainer.train_step()[0].linked(trainer.link)
        trainer.link = line.link
        lines.append(line)
        path = out / f"step_{line.step:06d}.safetensors"
        trainer.save(path)
        if altered and line.step == 1:
            flip(path)
        trainer.restore(load(path))
    chain.write(out / f"chain_{STEPS:06d}.tsv", lines)
    return out


@pytest.mark.parametrize("altered", ["A", "B"])
def test_a_run_resumed_from_an_altered_checkpoint(
    settings: dict[str, dict[str, Path]], tmp_path: Path, altered: str
) -> None:
    """Each side gives its own line again from its own checkpoint, so neither line accuses; the step that made the checkpoint does."""
    a, b = (side(x, settings[""], checkpointed_run(settings[""], tmp_path / x, x == altered)) for x in "AB")
    assert a.start(2) != b.start(2)
    assert a.start(1) == b.start(1) == ""
    found = Comparison(a, b)
    found.run(1)
    result = found.result
    assert not result.equal
    assert result.step == 2
    assert result.tensor is not None, result.notes
    assert (result.tensor.name, result.tensor.index) == ("before/h.1.mlp.fc.weight", (3, 4))
    assert f"the checkpoint of step 1 was altered on side {altered}" in " ".join(result.causes), result.causes
    assert result.sound.startswith("B" if altered == "A" else "A"), result.sound


def test_one_byte_of_a_shard(settings: dict[str, dict[str, Path]], sound: dict[str, Side], tmp_path: Path) -> None:
    setting = settings[""]
    recipe = load_recipe(setting["recipe"])
    tokens = tmp_path / "tokens"
    shutil.copytree(setting["tokens"], tokens)
    trainer = Trainer(recipe, Execution(), Ranks(), tokens)
    assert recipe.bits.model.kind == "gpt"
    position = trainer.samples.offset(32 + 9) + 11  # sample 9 of step 2: lane 1, sequence 1, token 11
    seen = {trainer.samples.offset(sample) for sample in range(32)}
    assert not any(begin <= position <= begin + recipe.bits.model.context for begin in seen)
    shard = tokens / "train_000000.bin"
    content = bytearray(shard.read_bytes())
    content[1024 + 2 * position] ^= 1
    shard.write_bytes(content)
    about = json.loads((tokens / "tokens.json").read_text())
    about["sha256"][shard.name] = sha256(content).hexdigest()  # a record that fits: without it training refuses
    (tokens / "tokens.json").write_text(json.dumps(about))
    found = sides(setting, sound[""], trained(setting | {"tokens": tokens}, tmp_path / "run"), tokens=tokens)
    found.run(1)
    assert not found.result.equal
    assert found.result.step == 2
    assert found.result.tensor is not None
    assert found.result.tensor.name.startswith("lane."), found.result.tensor
    assert found.result.tensor.name.endswith("/tokens")
    assert found.result.tensor.count >= 1
    assert "other data" in " ".join(found.result.causes)


def test_a_checkpoint_and_a_chain_altered_afterwards(
    settings: dict[str, dict[str, Path]], sound: dict[str, Side], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(sound[""].path, out)
    path = out / f"step_{STEPS:06d}.safetensors"
    flip(path)
    found = sides(settings[""], sound[""], out)
    found.run(1)
    result = found.result
    assert not result.equal
    assert result.artefact == f"train/step_{STEPS:06d}.safetensors"
    assert result.tensor is not None
    assert (result.tensor.index, result.tensor.count) == ((3, 4), 1)
    assert "a single flipped bit" in result.causes
    assert safetensors.torch.load_file(path).keys() == set(load(path).tensors)
    chain_path = out / f"chain_{STEPS:06d}.tsv"
    lines = chain.read(chain_path)
    changed = chain.Line(2, lines[1].loss + 1e-6, lines[1].lr, lines[1].norm, lines[1].fingerprint, lines[1].link)
    chain.write(chain_path, [lines[0], changed, lines[2]])
    found = sides(settings[""], sound[""], out)
    found.run(None)
    assert found.result.step == 2
    assert any("altered at step 2: its link is broken" in cause for cause in found.result.causes)


def test_equal_runs_are_equal(settings: dict[str, dict[str, Path]], sound: dict[str, Side], tmp_path: Path) -> None:
    """The command itself: equal for a copy, an error for nothing at all."""
    shutil.copytree(sound[""].path, tmp_path / "copy")
    output = run("-m", "pipeline.compare", str(sound[""].path), str(tmp_path / "copy"))
    assert "equal: everything that both sides have" in output
    changed = tmp_path / "changed"
    shutil.copytree(sound[""].path, changed)
    lines = chain.read(changed / f"chain_{STEPS:06d}.tsv")
    chain.write(changed / f"chain_{STEPS:06d}.tsv", [*lines[:-1], dataclasses.replace(lines[-1], loss=1.0)])
    flags = ["--no-replay", "--json", str(tmp_path / "found.json"), "--html", str(tmp_path / "found.html")]
    output = run("-m", "pipeline.compare", str(sound[""].path), str(changed), *flags, code=1)
    assert f"{STEPS}: loss" in output
    assert json.loads((tmp_path / "found.json").read_text())["columns"] == ["loss"]
    page = (tmp_path / "found.html").read_text()
    assert "<svg" in page
    assert "its link is broken" in page
    assert "no such run" in run("-m", "pipeline.compare", str(sound[""].path), str(tmp_path / "absent"), code=2)
