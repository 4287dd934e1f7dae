"""pytest tests/scoring/test_lm_eval.py

What lm-evaluation-harness is given: exact, the same for every batch size; and its own scores from it, where it is installed:

    uv pip install --target results/lm_eval --require-hashes -r requirements-lm-eval.lock
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cuda_ops.errors import UserError
from pipeline.base.checkpoint import Checkpoint, load, save
from pipeline.data.benchmarks import hellaswag as tokenised
from pipeline.data.benchmarks import wikitext as page_of
from pipeline.data.tokenizers import CharTokenizer, Gpt2Tokenizer, load_tokenizer
from pipeline.export_weights import export
from pipeline.models.gpt import Gpt as Model
from pipeline.recipe import load_recipe, recipe_id
from pipeline.scoring.greedy import best
from pipeline.scoring.hellaswag import hellaswag
from pipeline.scoring.lm_eval import Exact, adapter
from pipeline.scoring.model import load_model
from pipeline.scoring.wikitext import wikitext
from pipeline.training.stored import specs_of
from tests.conftest import ROOT, run
from tests.models.test_weights import TRANSFORMERS, loaded, made
from tests.scoring.test_benchmarks import ROWS, alone, model

HARNESS = ROOT / "results" / "lm_eval"
__all__ = ["model"]  # the fixture


def test_likelihoods_are_those_of_a_row_alone(tiny: dict[str, Path]) -> None:
    recipe = load_recipe(tiny["recipe"])
    assert recipe.bits.model.kind == "gpt"
    small = Model(recipe.bits.model, 8, training=False, decode_batch=1)
    small.initialise(3, recipe.bits.init)
    tokenizer = load_tokenizer(tiny["tokens"])
    requests = [("Once there was", " a fox"), ("", "Once"), ("a ", "b"), ("The bear saw the fox and " * 9, "ran away.")]
    found = [Exact(small, tokenizer, batch).loglikelihood(requests) for batch in (1, 3, 8)]
    assert found[0] == found[1] == found[2]
    exact = Exact(small, tokenizer, 2)
    for request, (likelihood, greedy) in zip(requests, found[0], strict=True):
        head, tail = exact.pair(*request)
        assert likelihood == -math.fsum(alone(small, head, tail)) < 0
        ids = (head + tail)[-49:]
        guess = best(small, torch.tensor([ids[:-1]], dtype=torch.int32))[0, -len(tail) :].tolist()
        assert greedy == (guess == tail)
    texts = ["Once there was a fox. " * 12, "The end."]
    assert exact.rolling(texts) == Exact(small, tokenizer, 7).rolling(texts)
    text = exact.generate("Once", [], 12)
    ids = tokenizer.encode("Once")
    for _ in range(12):
        ids.append(int(best(small, torch.tensor([ids], dtype=torch.int32))[0, -1]))
    assert text == tokenizer.decode(ids[len(tokenizer.encode("Once")) :])
    assert (
        exact.generate("Once", ["", text[3:5], text[1:3]], 12)
        == text[: min(text.find(text[3:5]), text.find(text[1:3]))]
    )
    with pytest.raises(UserError, match="an answer of 48 tokens leaves no room"):
        exact.generate("Once", [], 48)
    with pytest.raises(UserError, match="a char tokenizer has none"):
        Exact(small, CharTokenizer("ab"), 1)
    if "lm_eval" not in sys.modules:
        with pytest.raises(UserError, match="lm-evaluation-harness is not here"):
            adapter(exact)


@pytest.mark.skipif(
    not HARNESS.is_dir(), reason="lm-evaluation-harness not installed in results/lm_eval: see the head of this file"
)
def test_the_harness_finds_our_scores(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The command over task files of the harness' own form: multiple choice and word perplexity, for two batch sizes."""
    recipe = load_recipe(tiny["recipe"])
    assert recipe.bits.model.kind == "gpt"
    small = Model(recipe.bits.model, 1, training=False)
    small.initialise(3, recipe.bits.init)
    tensors = {name: small.weights.get(name, torch.zeros(spec.shape)) for name, spec in specs_of(recipe).items()}
    save(tmp_path / "step_000006.safetensors", Checkpoint(6, recipe_id(recipe), "0" * 64, tensors))
    tokenizer = load_tokenizer(tiny["tokens"])
    rows = [tokenised(row, "", tokenizer) for row in ROWS]
    (tmp_path / "questions.jsonl").write_text(
        "".join(
            json.dumps({"query": query, "choices": choices, "gold": row["label"]}) + "\n"
            for row, (query, choices) in zip(ROWS, texts(), strict=True)
        )
    )
    pages = ["Once there was a fox . \n", " = A = \n The bear and the owl , in the wood . " * 4]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in pages))
    common = (
        "dataset_path: json\ntest_split: test\nmetadata: {version: 1.0}\ndataset_kwargs: {data_files: {test: %s}}\n"
    )
    (tmp_path / "own_choice.yaml").write_text(
        "task: own_choice\noutput_type: multiple_choice\ndoc_to_text: '{{query}}'\ndoc_to_choice: choices\ndoc_to_target: gold\n"
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n" + common % (tmp_path / "questions.jsonl")
    )
    (tmp_path / "own_pages.yaml").write_text(
        "task: own_pages\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{page}}'\n"
        "metric_list: [{metric: word_perplexity}]\n" + common % (tmp_path / "pages.jsonl")
    )
    results = []
    for batch in ("1", "5"):
        out = tmp_path / f"{batch}.json"
        command = [
            "-m", "pipeline.lm_eval", "--recipe", str(tiny["recipe"]), "--tokens", str(tiny["tokens"]), "--include", str(tmp_path),
            "--checkpoint", str(tmp_path / "step_000006.safetensors"), "--tasks", "own_choice,own_pages", "--batch-size", batch,
            "--out", str(out),
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HARNESS), str(ROOT)]), "HF_DATASETS_OFFLINE": "1",
                                    "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}  # fmt: skip
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(json.loads(out.read_text()))
    assert results[0] == results[1]
    model = load_model(recipe, load(tmp_path / "step_000006.safetensors"), tmp_path, 4)
    ours = hellaswag(model, rows, 4)["lm_eval"]  # type: ignore[arg-type]
    found = results[0]["own_choice"]
    assert (found["acc,none"], found["acc_norm,none"]) == (ours["acc"], ours["acc_norm"])
    made = [page_of(page, tokenizer) | {"tokens": tokenizer.encode(page)} for page in pages]
    own = wikitext(model, made, 4, 256)  # type: ignore[arg-type]
    assert results[0]["own_pages"]["word_perplexity,none"] == pytest.approx(own["word_perplexity"], rel=1e-12)


@pytest.mark.skipif(
    not (HARNESS.is_dir() and TRANSFORMERS.is_dir()),
    reason="lm-evaluation-harness or transformers not installed in results/: see the heads of this file and of test_weights.py",
)
def test_the_harness_own_model_gives_our_likelihoods(tmp_path: Path) -> None:
    """HFLM on our export, within fp32's tolerance: short, long and empty contexts, a greedy continuation, a long text."""
    run("-m", "pipeline.download", "--pins", "config/data/gpt2_bpe.yaml", "--out", str(tmp_path / "bpe"))
    sizes = {"layers": 1, "heads": 2, "channels": 32, "context": 24, "vocab_size": 50257, "padded_vocab_size": 50304}
    made(sizes, tmp_path / "own.safetensors")
    export(tmp_path / "own.safetensors", tmp_path / "gpt", "fp32", tmp_path / "bpe")
    tokenizer = Gpt2Tokenizer(tmp_path / "bpe")
    exact = Exact(loaded(tmp_path / "own.safetensors"), tokenizer, 2)
    pairs = [("Once there was", " a fox"), ("", "Once"), ("a ", "b"), ("The bear and the fox " * 9, "ran far away.")]
    said = [(context, exact.generate(context, [], 1)) for context in (f"Number {i}:" for i in range(40))]
    pairs.append(next(pair for pair in said if exact.loglikelihood([pair])[0][1]))
    texts = ["Once there was a fox. " * 12, "The end."]
    (tmp_path / "asked.json").write_text(json.dumps({"pairs": pairs, "texts": texts}))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TRANSFORMERS), str(HARNESS), str(ROOT)]), "HF_HUB_OFFLINE": "1",
                                "HF_HOME": str(tmp_path / "hf")}  # fmt: skip
    command = [
        "-m",
        "tests.scoring.hflm_program",
        *(str(tmp_path / name) for name in ("gpt", "asked.json", "out.json")),
    ]
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs, ours = json.loads((tmp_path / "out.json").read_text()), exact.loglikelihood(pairs)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs["pairs"]]
    assert [nats for nats, _ in ours] == pytest.approx([nats for nats, _ in theirs["pairs"]], rel=2e-5)
    assert exact.rolling(texts) == pytest.approx(theirs["texts"], rel=2e-5)


def texts() -> list[tuple[str, list[str]]]:
    """Query and choices of each made-up row, as the harness' own task file has them."""
    from pipeline.data.benchmarks import cleaned

    return [
        (
            cleaned(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"),
            [cleaned(ending) for ending in row["endings"]],
        )
        for row in ROWS
    ]
