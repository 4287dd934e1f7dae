"""pytest tests/training/test_stages.py

Schedule, checkpoints, chain, lanes, evaluation, sampling, recipes and execution: known values, invariance, bad input.
"""

from __future__ import annotations

import errno
import json
import math
import os
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops.errors import UserError
from pipeline.base import chain
from pipeline.base.checkpoint import Checkpoint, load, save
from pipeline.base.files import atomic_write
from pipeline.data.contents import Question
from pipeline.machine.execution import Execution
from pipeline.recipe import Decay, load_recipe, parse_recipe, recipe_id
from pipeline.scoring.choices import choices
from pipeline.scoring.draw import draw
from pipeline.scoring.loss import windows
from pipeline.scoring.model import load_model
from pipeline.training.lanes import LaneCounter, lanes_of, tree_over_rows
from pipeline.training.schedule import bias_correction, cos_pi, learning_rate
from tests.bits import assert_bits_equal
from tests.conftest import ROOT, run

# ---------------------------------------------------------------- schedule


def test_cosine_without_libm() -> None:
    assert max(abs(cos_pi(i / 999) - math.cos(math.pi * i / 999)) for i in range(1000)) < 1e-15


@given(st.sampled_from(["cosine", "linear", "constant", "wsd"]), st.integers(0, 20), st.integers(20, 300))
def test_schedules_have_llm_c_shapes(kind: Any, warmup: int, steps: int) -> None:
    schedule = Decay(kind=kind, peak=1e-3, warmup_steps=warmup, final_fraction=0.1)
    rates = [learning_rate(schedule, step, steps) for step in range(1, steps + 1)]
    for step in range(1, steps + 1):
        done = step - 1
        ratio = (done - warmup) / max(1, steps - warmup)
        late = (done - 0.8 * steps) / (0.2 * steps)
        factor = {
            "cosine": 0.5 * (1 + math.cos(math.pi * ratio)),
            "linear": 1 - ratio,
            "constant": 1.0,
            "wsd": 1 - math.sqrt(late) if late > 0 else 1.0,
        }[kind]
        expected = (
            1e-3 * step / warmup if done < warmup else 1e-3 * (factor if kind == "constant" else 0.1 + 0.9 * factor)
        )
        assert rates[step - 1] == pytest.approx(expected, rel=1e-6)
        assert rates[step - 1] == float(np.float32(rates[step - 1]))


def test_bias_correction() -> None:
    for step in (1, 2, 3, 100, 19_560):
        assert bias_correction(0.95, step) == pytest.approx(1 - 0.95**step, rel=1e-6)


# ---------------------------------------------------------------- files


def test_checkpoints_round_trip_and_name_their_damage(tmp_path: Path) -> None:
    path = tmp_path / "step_000001.safetensors"
    tensors = {"b": torch.randn(3, 4), "a": torch.tensor([-0.0, 1e-42])}
    save(path, Checkpoint(1, "r", "l", tensors))
    first = path.read_bytes()
    again = load(path)
    assert (again.step, again.recipe_id, again.link) == (1, "r", "l")
    for name, tensor in tensors.items():
        assert_bits_equal(again.tensors[name], tensor, name)
    save(path, Checkpoint(1, "r", "l", dict(reversed(tensors.items()))))
    assert path.read_bytes() == first, "the order of a dictionary is not in the file"
    for bad in (first[:-3], first[:60], first[:-1] + bytes([first[-1] ^ 1])):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=rf"damaged \({len(bad)} bytes\): sha256 is .* it was written as"):
            load(path)
    path.with_name(path.name + ".sha256").unlink()
    with pytest.raises(UserError, match="is missing, which says whether it is whole"):
        load(path)


def test_a_full_disk_keeps_the_earlier_file(tmp_path: Path) -> None:
    """A real limit on file size in a process of its own stands for a full disk; the same error path (EFBIG) is taken."""
    path = tmp_path / "kept.bin"
    path.write_bytes(b"earlier")
    code = (
        "import resource, signal\nfrom pathlib import Path\nfrom pipeline.base.files import write_bytes\n"
        "from cuda_ops.errors import exit_on_user_error\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        f"exit_on_user_error(lambda: write_bytes(Path({str(path)!r}), bytes(1 << 20)))\n"
    )
    output = run("-c", code, code=2)
    assert "no space left" in output
    assert "Nothing earlier was lost" in output
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.bin"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_enospc_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left"), atomic_write(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(PermissionError), atomic_write(tmp_path / "x"):
        raise PermissionError
    assert not list(tmp_path.iterdir())


def test_an_altered_chain_is_named(tmp_path: Path) -> None:
    lines, link = [], chain.START
    for step in range(1, 6):
        lines.append(chain.Line(step, 1.5 / step, 1e-3, 0.1, step * 2**60).linked(link))
        link = lines[-1].link
    path = tmp_path / "chain.tsv"
    chain.write(path, lines)
    assert chain.read(path) == lines
    assert chain.check(lines, chain.START, path) == link
    path.write_text(path.read_text().replace((1.5 / 3).hex(), (1.5 / 3 + 1e-9).hex()))
    with pytest.raises(UserError, match="step 3 does not follow from the line before"):
        chain.check(chain.read(path), chain.START, path)
    path.write_text(path.read_text().replace("\t", " ", 30))
    with pytest.raises(UserError, match="is not the header of a chain"):
        chain.read(path)


# ---------------------------------------------------------------- lanes


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_any_ranks_add_the_same_aligned_tree(lanes: int) -> None:
    gradients = torch.randn(lanes, 1000) * 10.0 ** torch.randint(-3, 4, (lanes, 1000))
    expected = gradients.clone()
    while len(expected) > 1:
        expected = expected[0::2] + expected[1::2]
    ranks = 1
    while ranks <= lanes:
        partials = []
        for rank in range(ranks):
            counter = LaneCounter(lanes // ranks, lambda: torch.zeros(1000))
            assert len(counter._buffers) == (lanes // ranks).bit_length()
            for lane in lanes_of(rank, ranks, lanes):
                buffer = counter.fresh()
                buffer.copy_(gradients[lane])
                parts = [(700, 1000), (1, 700), (0, 1)] if lane % 3 else [(0, 1000)]  # in parts or whole
                for begin, end in parts:
                    total = counter.push(buffer, begin, end)
            partials.append(total.clone())
        assert_bits_equal(tree_over_rows(torch.stack(partials)), expected[0], f"{ranks} ranks")
        ranks *= 2
    if lanes == 8:
        fold = gradients[0].clone()
        for row in gradients[1:]:
            fold = fold + row
        assert (fold != expected[0]).any(), "the control: a left fold is another sum"


# ---------------------------------------------------------------- evaluation and sampling


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 17), st.booleans())
def test_every_target_is_scored_once(lengths: list[int], context: int, aligned: bool) -> None:
    total = sum(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    scored: list[int] = []
    for window in windows(total, context, starts if aligned else None):
        assert 1 <= window.length <= context
        assert window.begin + window.length < total
        scored += range(window.begin + 1 + window.skip, window.begin + window.length + 1)
    assert scored == list(range(1, total))


class Fixed:
    """A stand-in for a model whose loss of a token is its own number: scores can be added by hand."""

    config = SimpleNamespace(context=16)
    memory = SimpleNamespace(device=torch.device("cpu"))

    def losses(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return targets.float()


def test_choices_are_scored_as_hellaswag() -> None:
    questions: list[Question] = [
        # sums 9, 8, 12, 10: acc picks 1; per byte 9/3, 8/1, 12/6, 10/2: acc_norm picks 2
        {"context": [1, 1], "endings": [[4, 5], [8], [12], [1, 9]], "bytes": [3, 1, 6, 2], "label": 1},
        {"context": [7], "endings": [[3], [3], [2, 2], [9]], "bytes": [1, 1, 4, 1], "label": 2},
    ]
    result = choices(cast(Any, Fixed()), questions, 3)
    assert result["nats"] == [[x.hex() for x in (9.0, 8.0, 12.0, 10.0)], [x.hex() for x in (3.0, 3.0, 4.0, 9.0)]]
    assert (result["acc"], result["acc_norm"]) == (0.5, 0.5)


@pytest.fixture(scope="module")
def trained(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "step_000006.safetensors"
    run(
        "-m", "pipeline.train", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--steps-to", "6", "--out",
        str(out), "--chain", str(out.parent / "chain_000006.tsv"), "--state", str(out.parent / "state"),
    )  # fmt: skip
    return out


def test_batch_size_and_threads_change_no_result(tiny: dict[str, Path], trained: Path, tmp_path: Path) -> None:
    found: dict[str, set[str]] = {"evaluate": set(), "sample": set()}
    for batch, threads in ((1, 1), (3, 2), (8, 3)):
        for stage in found:
            out = tmp_path / f"{stage}_{batch}.json"
            run(
                "-m", f"pipeline.{stage}", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--checkpoint",
                str(trained), "--out", str(out), "--batch-size", str(batch), "--threads", str(threads),
            )  # fmt: skip
            found[stage].add(out.read_text())
    assert {stage: len(texts) for stage, texts in found.items()} == {"evaluate": 1, "sample": 1}
    result = json.loads(next(iter(found["evaluate"])))
    assert (
        result["validation"]["tokens"]
        == json.loads((tiny["tokens"] / "tokens.json").read_text())["validation"]["tokens"] - 1
    )
    assert 3 < result["validation"]["nats_per_token"] < math.log(300)
    assert result["choices"]["questions"] == 12


def test_greedy_sampling_follows_the_full_forward_past_the_context(tiny: dict[str, Path], trained: Path) -> None:
    recipe = load_recipe(tiny["recipe"])
    model: Any = load_model(recipe, load(trained), trained, 2, decode_batch=2)  # a Generator
    assert recipe.artifacts.samples is not None
    wanted = recipe.artifacts.samples.model_copy(update={"temperature": 0.0, "length": 50})
    prompt = [256, 79, 110]
    (first, second) = draw(model, prompt, wanted, 0, 2, separator=None)
    assert first == second
    row = list(prompt)
    begin = 0
    for token in first:
        if len(row) - begin > model.config.context:
            begin = len(row) - model.config.context // 2
        hidden = cast(Any, model)._forward(torch.tensor([row[begin:]], dtype=torch.int32))
        logits = hidden[0, -1] @ model.weights["wte.weight"].T
        assert logits[token] >= logits[:300].max() - 1e-4
        row.append(token)


def test_a_checkpoint_of_another_recipe_is_refused(tiny: dict[str, Path], trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny["recipe"].read_text().replace("seed: 5", "seed: 6"))
    for stage in ("evaluate", "sample"):
        flags = [
            "--recipe",
            str(other),
            "--tokens",
            str(tiny["tokens"]),
            "--checkpoint",
            str(trained),
            "--out",
            str(tmp_path / "o"),
        ]
        assert "a checkpoint of recipe" in run("-m", f"pipeline.{stage}", *flags, code=2)


# ---------------------------------------------------------------- recipes and execution


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 5", "sed: 5", "bits.sed: unknown key; did you mean 'seed'"),
        ("seed: 5", "seed: five", "bits.seed: .*given 'five'"),
        ("lanes: 4", "lanes: 3", "lanes 3 is not a power of two"),
        ("lanes: 4", "lanes: 64", "lanes 64 does not divide sequences 32"),
        ("heads: 2", "heads: 5", "channels 32 is not a multiple of heads 5"),
        ("vocab_size: 300}", "vocab_size: 301}", "model.vocab_size 300 differs from the tokenizer's 301"),
        (
            "kind: cosine",
            "kind: step",
            "bits.schedule: Input tag 'step' .*'cosine', 'linear', 'constant', 'wsd', 'phases'",
        ),
        ("checkpoints: [3]", "checkpoints: [30]", r"artifacts.checkpoints \[30\] lie after the last step 6"),
        ("kind: generated, generator", "kind: invented, generator", "bits.data.source: .*'invented'"),
    ],
)
def test_a_bad_recipe_names_key_value_and_what_is_allowed(
    tiny: dict[str, Path], tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = tiny["recipe"].read_text()
    assert old in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        load_recipe(path)
    output = run("-m", "pipeline.recipe", str(path), code=2)
    assert "Traceback" not in output


def test_comments_and_artifacts_do_not_change_the_bits(tiny: dict[str, Path], tmp_path: Path) -> None:
    base = load_recipe(tiny["recipe"])
    path = tmp_path / "same.yaml"
    path.write_text("# a comment\n" + tiny["recipe"].read_text().replace("checkpoints: [3]", "checkpoints: [2, 5]"))
    assert recipe_id(load_recipe(path)) == recipe_id(base)
    path.write_text(tiny["recipe"].read_text().replace("peak: 3.0e-3", "peak: 3.1e-3"))
    assert recipe_id(load_recipe(path)) != recipe_id(base)
    content = json.loads(base.model_dump_json())
    source = {"kind": "file", "path": "/a/x.txt", "sha256": "0" * 64}
    content["bits"]["data"]["source"] = source
    content["artifacts"]["scores"] = [{"kind": "loss"}]
    one = parse_recipe(content, "one")
    source["path"] = "elsewhere/y.txt"
    assert recipe_id(parse_recipe(content, "two")) == recipe_id(one)


def test_execution_that_a_recipe_cannot_honour(tiny: dict[str, Path], tmp_path: Path) -> None:
    recipe = load_recipe(tiny["recipe"])
    with pytest.raises(UserError, match=r"--ranks 3 does not divide the recipe's 4 lanes; allowed are \[1, 2, 4\]"):
        Execution(ranks=3).check(recipe)
    with pytest.raises(UserError, match="--micro-batch 0"):
        Execution(micro_batch=0).check(recipe)
    with pytest.raises(UserError, match="--device tpu"):
        Execution(device="tpu").check(recipe)
    base = ["-m", "pipeline.train", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"])]
    base += ["--out", str(tmp_path / "o.safetensors"), "--chain", str(tmp_path / "c.tsv")]
    assert "--steps-to 9: expected 1 to 6" in run(*base, "--steps-to", "9", code=2)
    assert "no such checkpoint" in run(
        *base, "--steps-to", "3", "--previous", str(tmp_path / "none.safetensors"), code=2
    )
    assert "allowed are [1, 2, 4]" in run(*base, "--steps-to", "3", "--ranks", "3", code=2)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_port_in_use_is_one_clear_message(tiny: dict[str, Path], tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1]), "RANK": "0", "WORLD_SIZE": "2"}
        flags = ["--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--steps-to", "3", "--ranks", "2"]
        flags += ["--out", str(tmp_path / "o"), "--chain", str(tmp_path / "c")]
        output = run("-m", "pipeline.train", *flags, env=env, code=2)
    assert "If the port is in use, unset MASTER_PORT" in output
    assert ROOT.exists()
