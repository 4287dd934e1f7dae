"""pytest tests/models/test_weights.py

Weights in and out: our files, Hugging Face's, llm.c's. In fp32 no bit is lost either way, and what does not fit is named.

Against Hugging Face's transformers themselves, which are not in the project's environment:

    uv pip install --target results/transformers --no-deps --require-hashes -r requirements-transformers.lock
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cuda_ops.errors import UserError
from pipeline.base.checkpoint import load
from pipeline.base.tensors import Spec, write_tensors
from pipeline.models.gpt import Gpt as Model
from pipeline.models.weights import open_weights
from pipeline.recipe import Gpt
from tests.bits import assert_bits_equal
from tests.conftest import ROOT, run

TRANSFORMERS = ROOT / "results" / "transformers"
SMALL = {"layers": 2, "heads": 2, "channels": 32, "context": 16, "vocab_size": 65, "padded_vocab_size": 80}
LARGE = {"layers": 3, "heads": 4, "channels": 64, "context": 24, "vocab_size": 50257, "padded_vocab_size": 50304}


def made(sizes: dict[str, int], path: Path, seed: int = 1) -> Gpt:
    """A file of ours with random weights, biases too; the padded rows are zero, as training leaves them."""
    config = Gpt(kind="gpt", **sizes)
    generator = torch.Generator().manual_seed(seed)
    table = Model.table(config)
    tensors = {name: 0.2 * torch.randn(parameter.shape, generator=generator) for name, parameter in table.items()}
    for name in tensors:
        if "ln_" in name and name.endswith("weight"):
            tensors[name] += 1.0
    tensors["wte.weight"][config.vocab_size :] = 0.0
    specs = {name: Spec(torch.float32, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensors(path, specs, tensors, {"model": config.model_dump()})
    return config


def loaded(path: Path) -> Model:
    """The model of a file of weights, of any kind."""
    weights, config = open_weights(path)
    model = Model(config, 2, training=False, decode_batch=2)
    for name, view in model.weights.items():
        view.copy_(weights[name])
    return model


def logits_of(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """[b, T, V], each by the decoder; the padded vocabulary is left out."""
    found = [model.decode(tokens[:, t : t + 1].contiguous(), t).clone() for t in range(tokens.shape[1])]
    return torch.stack(found, dim=1)[:, :, : model.config.vocab_size]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """own_<size>.safetensors, the folder <size>, <size>.bin and <size>_bf16.bin."""
    folder = tmp_path_factory.mktemp("weights")
    for name, sizes in (("small", SMALL), ("large", LARGE)):
        made(sizes, folder / f"own_{name}.safetensors")
        for out, flags in ((name, []), (f"{name}.bin", []), (f"{name}_bf16.bin", ["--dtype", "bf16"])):
            given = ["--weights", str(folder / f"own_{name}.safetensors"), "--out", str(folder / out), *flags]
            said = run("-m", "pipeline.export_weights", *given) if out == "small" else exported_here(given)
            assert "sha256" in said
    return folder


def exported_here(given: list[str]) -> str:
    """The command without a process of its own."""
    from pipeline.export_weights import export

    dtype = given[5] if len(given) > 4 else "fp32"
    return export(Path(given[1]), Path(given[3]), dtype, None)


@pytest.mark.parametrize("name", ["small", "large"])
def test_in_and_out_again_is_the_same_bytes(exported: Path, tmp_path: Path, name: str) -> None:
    own, config = open_weights(exported / f"own_{name}.safetensors")
    for form in (name, f"{name}.bin"):
        weights, found = open_weights(exported / form)
        assert (found.layers, found.heads, found.channels) == (config.layers, config.heads, config.channels)
        assert found == config
        assert set(weights) == set(Model.table(config))
        for parameter in weights:
            assert_bits_equal(weights[parameter], own[parameter], parameter)
    for source in (exported / name, exported / f"{name}.bin"):
        exported_here(["--weights", str(source), "--out", str(tmp_path / "again")])
        exported_here(["--weights", str(source), "--out", str(tmp_path / "again.bin")])
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / "again" / file).read_bytes() == (exported / name / file).read_bytes()
        assert (tmp_path / "again.bin").read_bytes() == (exported / f"{name}.bin").read_bytes()


def test_the_formats_are_the_published_ones(exported: Path) -> None:
    """Read by other code: numpy for llm.c's layout, the safetensors library for Hugging Face's."""
    own, config = open_weights(exported / "own_small.safetensors")
    content = (exported / "small.bin").read_bytes()
    header = np.frombuffer(content[:1024], dtype="<i4")
    assert header[:8].tolist() == [20240326, 3, 16, 65, 2, 2, 32, 80]
    assert not header[8:].any()
    values = np.frombuffer(content[1024:], dtype="<f4")
    c, v, t = 32, 80, 16
    assert len(values) == v * c + t * c + 2 * (12 * c * c + 13 * c) + 2 * c
    assert np.array_equal(values[: v * c].reshape(v, c), own["wte.weight"].numpy())
    # After wte, wpe, ln1w and ln1b of both layers: qkvw of layer 0, then of layer 1.
    at = v * c + t * c + 4 * c
    assert np.array_equal(values[at + 3 * c * c :][: 3 * c * c].reshape(3 * c, c), own["h.1.attn.qkv.weight"].numpy())
    half = torch.frombuffer(bytearray((exported / "small_bf16.bin").read_bytes()[1024:]), dtype=torch.bfloat16)
    assert np.frombuffer((exported / "small_bf16.bin").read_bytes()[:8], dtype="<i4").tolist() == [20240326, 5]
    assert torch.equal(half, torch.from_numpy(values.copy()).to(torch.bfloat16))
    theirs = safetensors.torch.load_file(exported / "small" / "model.safetensors")
    assert len(theirs) == 12 * config.layers + 4
    assert list(theirs["wte.weight"].shape) == [65, 32]
    assert torch.equal(theirs["h.1.mlp.c_fc.weight"], own["h.1.mlp.fc.weight"].t())  # Conv1D: [in, out]
    about = json.loads((exported / "small" / "config.json").read_text())
    assert {key: about[key] for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")} == {
        "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 16, "vocab_size": 65,
    }  # fmt: skip
    # llm.c's own sizes: bytes of its files at the five sizes of docs/recipes/gpt2.md.
    for layers, channels, context, size in ((12, 768, 1024, 497_904_640), (48, 1600, 1024, 6_230_746_624), (12, 768, 2048, 501_050_368)):  # fmt: skip
        big = Gpt(kind="gpt", layers=layers, heads=channels // 64, channels=channels, context=context,
                  vocab_size=50257, padded_vocab_size=50304)  # fmt: skip
        assert 1024 + 4 * sum(parameter.size for parameter in Model.table(big).values()) == size


def test_what_hugging_face_s_files_may_hold_besides(exported: Path, tmp_path: Path) -> None:
    """Names with a prefix, causal masks, a head that is tied: as gpt2's own file has some."""
    theirs = safetensors.torch.load_file(exported / "small" / "model.safetensors")
    prefixed = {f"transformer.{name}": tensor for name, tensor in theirs.items()}
    masks = {f"transformer.h.{i}.attn.bias": torch.tril(torch.ones(1, 1, 16, 16)) for i in range(2)}
    head = {"lm_head.weight": theirs["wte.weight"].clone()}
    shutil.copy(exported / "small" / "config.json", tmp_path)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(prefixed | masks | head, path, {"format": "pt"})
    own = open_weights(exported / "own_small.safetensors")[0]
    weights = open_weights(tmp_path)[0]
    for name in weights:
        assert_bits_equal(weights[name], own[name], name)
    safetensors.torch.save_file(theirs | {"lm_head.weight": theirs["wte.weight"] + 1}, path)
    with pytest.raises(UserError, match=r"lm_head\.weight differs from wte\.weight: the head is not tied"):
        open_weights(tmp_path)


def test_weights_of_another_model_are_named(exported: Path, tmp_path: Path) -> None:
    about = json.loads((exported / "small" / "config.json").read_text())
    theirs = safetensors.torch.load_file(exported / "small" / "model.safetensors")

    def refused(message: str, tensors: dict[str, torch.Tensor] | None = None, **changes: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(about | changes))
        safetensors.torch.save_file(theirs | (tensors or {}), tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=message):
            open_weights(tmp_path)

    refused("activation_function is 'gelu', expected 'gelu_new'", activation_function="gelu")
    refused("tie_word_embeddings is False", tie_word_embeddings=False)
    refused("n_head is 'two', expected a number", n_head="two")
    refused("n_embd 32 is not a multiple of n_head 5", n_head=5)
    refused(r"wte\.weight is torch.float32 of shape \[65, 32\].*the vocabulary is not the 70 tokens", vocab_size=70)
    refused(r"no tensor h\.2\.ln_1\.weight, which a GPT-2 of 3 layers has", n_layer=3)
    refused(r"a tensor h\.1\..*, which a GPT-2 of 1 layers has not", n_layer=1)
    refused(r"h\.0\.ln_1\.bias is torch.float64", {"h.0.ln_1.bias": torch.zeros(32, dtype=torch.float64)})
    refused(r"h\.0\.ln_1\.bias has the dtype 'BF16'", {"h.0.ln_1.bias": torch.zeros(32, dtype=torch.bfloat16)})
    refused(r"a tensor score\.weight", {"score.weight": torch.zeros(2, 2)})
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"it does not say of which model it is; put its config\.json beside it"):
        open_weights(tmp_path)
    wanted = Gpt(kind="gpt", **SMALL)
    safetensors.torch.save_file(theirs, tmp_path / "model.safetensors")
    assert open_weights(tmp_path, wanted)[1] == wanted
    with pytest.raises(UserError, match=r"heads 2, the recipe's bits\.model\.heads is 4: weights of another model"):
        open_weights(exported / "small.bin", wanted.model_copy(update={"heads": 4}))
    with pytest.raises(UserError, match=r"padded_vocab_size 80, the recipe's .* is 96"):
        open_weights(exported / "own_small.safetensors", wanted.model_copy(update={"padded_vocab_size": 96}))


def test_damaged_and_foreign_files_are_refused(exported: Path, tmp_path: Path) -> None:
    content = (exported / "small.bin").read_bytes()
    path = tmp_path / "model.bin"
    header = np.frombuffer(content[:1024], dtype="<i4").copy()
    for index, value, message in (
        (1, 1, r"version 1; read are 3 \(fp32\) and 5 \(bf16\)"),
        (4, 3, "bytes, its header says .*: cut off, or another model's"),
        (5, 3, "impossible sizes"),
        (0, 20240527, "a training state: give the model_"),
    ):
        changed = header.copy()
        changed[index] = value
        path.write_bytes(changed.tobytes() + content[1024:])
        with pytest.raises(UserError, match=message):
            open_weights(path)
    path.write_bytes(content[:-4])
    with pytest.raises(UserError, match="cut off"):
        open_weights(path)
    torch.save({"wte.weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    for given in (tmp_path / "pytorch_model.bin", tmp_path):
        shutil.rmtree(tmp_path / "model.bin", ignore_errors=True)
        path.unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"a pickle of PyTorch.*from_pretrained\('.*'\)\.save_pretrained"):
            open_weights(given)
    with pytest.raises(UserError, match="no such file of weights"):
        open_weights(tmp_path / "nothing")
    made(SMALL, tmp_path / "odd.safetensors")
    padded = safetensors.torch.load_file(tmp_path / "odd.safetensors")
    padded["wte.weight"][70] = 1.0
    specs = {name: Spec(torch.float32, tuple(tensor.shape)) for name, tensor in padded.items()}
    write_tensors(tmp_path / "odd.safetensors", specs, padded, {"model": {"kind": "gpt"} | SMALL})
    with pytest.raises(UserError, match=r"the padded rows of wte\.weight are not zero"):
        exported_here(["--weights", str(tmp_path / "odd.safetensors"), "--out", str(tmp_path / "out")])


def test_imported_weights_are_evaluated_sampled_and_begun_from(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The road of a user: a file of weights, a recipe made of it, a score, a text, and a run that begins from it."""
    recipe_model = {"layers": 1, "heads": 2, "channels": 16, "context": 48, "vocab_size": 300, "padded_vocab_size": 304}
    config = made(recipe_model, tmp_path / "own.safetensors")
    exported_here(["--weights", str(tmp_path / "own.safetensors"), "--out", str(tmp_path / "gpt")])
    given = [str(tmp_path / "gpt"), "--recipe", str(tiny["recipe"]), "--name", "mine"]
    said = run("-m", "pipeline.import_weights", *given, cwd=tmp_path)
    assert "results/recipes/mine.yaml: a recipe of no steps" in said
    checkpoint = tmp_path / "results" / "runs" / "mine" / "step_000000.safetensors"
    stored = load(checkpoint)
    own = open_weights(tmp_path / "own.safetensors")[0]
    assert set(stored.tensors) == set(Model.table(config)), "no optimizer's state"
    for name in stored.tensors:
        assert_bits_equal(stored.tensors[name], own[name], name)
    flags = ["--recipe", "results/recipes/mine.yaml", "--tokens", str(tiny["tokens"])]
    words = run("-m", "pipeline.evaluate", *flags, "--checkpoint", str(checkpoint), cwd=tmp_path)
    assert re.search(r"eval_000000\.json: \d+\.\d{4} nats/token", words)
    assert json.loads((checkpoint.parent / "eval_000000.json").read_text())["choices"]["questions"] == 12
    run("-m", "pipeline.sample", *flags, "--checkpoint", str(checkpoint), "--out", "samples.json", cwd=tmp_path)
    out = ["--threads", "1", "--steps-to", "0", "--out", "trained.safetensors", "--chain", "chain.tsv"]
    run("-m", "pipeline.train", *flags, *out, cwd=tmp_path)
    assert (tmp_path / "trained.safetensors").read_bytes() == checkpoint.read_bytes(), "training no step is the same"
    text = tiny["recipe"].read_text()
    begun = text.replace("name: tiny\ndescription", "name: begun\ndescription").replace(
        "layers: 2, heads: 2, channels: 32", "layers: 1, heads: 2, channels: 16"
    )
    digest = json.loads((tmp_path / "results" / "recipes" / "mine.yaml").read_text())["bits"]["init"]["sha256"]
    url = f"file://{tmp_path}/gpt/model.safetensors"
    begun = begun.replace("  schedule:", f"  init: {{kind: weights, url: '{url}', sha256: {digest}}}\n  schedule:")
    (tmp_path / "begun.yaml").write_text(begun)
    from pipeline.import_weights import fetch_pinned

    file = tmp_path / "fetched.safetensors"
    assert str(file) in fetch_pinned(tmp_path / "begun.yaml", file)
    flags = [
        "--recipe",
        "begun.yaml",
        "--tokens",
        str(tiny["tokens"]),
        "--steps-to",
        "3",
        "--threads",
        "1",
        "--out",
        "step.safetensors",
    ]
    run("-m", "pipeline.train", *flags, "--chain", "chain.tsv", "--init", str(file), cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("step") for row in rows] == [None, 1, 2, 3]
    cost = json.loads((tmp_path / "receipts" / "train_000003.json").read_text())["cost"]
    assert (cost["tokens"], cost["mfu"], cost["dollars"]) == (3 * 32 * 48, None, None)
    message = run("-m", "pipeline.train", *flags, "--chain", "chain.tsv", cwd=tmp_path, code=2)
    assert "import_weights --fetch brings it" in message
    with pytest.raises(UserError, match="pins no file at a URL"):
        fetch_pinned(tiny["recipe"], None)


def test_a_file_of_the_hub_comes_from_a_mirror_or_is_named(
    tiny: dict[str, Path], exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from pipeline.base.files import sha256_of
    from pipeline.import_weights import fetch_pinned

    file = exported / "small" / "model.safetensors"
    init = f"init: {{kind: weights, url: 'hf://a/b@{'1' * 40}/model.safetensors', sha256: {sha256_of(file)}}}"
    path = tmp_path / "recipe.yaml"
    path.write_text(tiny["recipe"].read_text().replace("  schedule:", f"  {init}\n  schedule:"))
    asked = []

    def absent(repo: str, name: str, revision: str) -> str:
        asked.append((repo, name, revision))
        raise OSError("no network\nmore words")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    monkeypatch.delenv("SAMEBITS_MIRROR", raising=False)
    with pytest.raises(
        UserError, match=r"hf://a/b@1+/model\.safetensors: no network\. Or give a copy .* SAMEBITS_MIRROR"
    ):
        fetch_pinned(path, tmp_path / "out.safetensors")
    assert asked == [("a/b", "model.safetensors", "1" * 40)]
    monkeypatch.setenv("SAMEBITS_MIRROR", str(exported))
    for _ in range(2):  # the second time it is there already
        assert "out.safetensors: sha256" in fetch_pinned(path, tmp_path / "out.safetensors")
    assert len(asked) == 1
    assert (tmp_path / "out.safetensors").read_bytes() == file.read_bytes()
    path.write_text(path.read_text().replace("hf://a/b@1", "hf://a/b@main1"))
    with pytest.raises(UserError, match=r"bits\.init\.url: String should match pattern"):
        fetch_pinned(path, None)


# ---------------------------------------------------------------- transformers


@pytest.mark.skipif(
    not TRANSFORMERS.is_dir(), reason="transformers not installed in results/transformers: see the head of this file"
)
def test_transformers_reads_ours_and_we_read_its(exported: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(TRANSFORMERS), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [
        "-m",
        "tests.models.transformers_program",
        str(tmp_path),
        str(exported / "small"),
        str(exported / "large"),
    ]
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, source in (("small", exported / "small"), ("large", exported / "large"), ("random", tmp_path / "random")):
        found = np.load(tmp_path / f"{name}.npz")
        model, tokens = loaded(source), torch.from_numpy(found["tokens"]).int()
        ours, theirs = logits_of(model, tokens), torch.from_numpy(found["logits"])
        assert theirs.abs().max() > 1.0, "logits that say something"
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * float(theirs.abs().max()))
        row = tokens
        for n in range(found["greedy"].shape[1]):
            assert row[:, tokens.shape[1] :].tolist() == found["greedy"][:, :n].tolist()
            best = logits_of(model, row)[:, -1].argmax(-1, keepdim=True).int()
            row = torch.cat([row, best], dim=1)
        assert row[:, tokens.shape[1] :].tolist() == found["greedy"].tolist()
    theirs_by_name = safetensors.torch.load_file(tmp_path / "random" / "model.safetensors")
    exported_here(["--weights", str(tmp_path / "random"), "--out", str(tmp_path / "back")])
    back = safetensors.torch.load_file(tmp_path / "back" / "model.safetensors")
    assert {f"transformer.{name}" for name in back} == set(theirs_by_name) - {"lm_head.weight"}
    for name, tensor in back.items():
        assert_bits_equal(tensor, theirs_by_name[f"transformer.{name}"], name)
