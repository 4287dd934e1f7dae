"""pytest tests/scoring/test_benchmarks.py

HellaSwag, LAMBADA and WikiText against plain implementations of their protocols, on made-up rows of the real schemas.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cuda_ops.errors import UserError
from pipeline.data.benchmarks import BENCHMARKS, cleaned, detokenised, encode_pair, pages
from pipeline.data.tokenizers import BpeTokenizer
from pipeline.models.gpt import Gpt as Model
from pipeline.recipe import Gpt
from pipeline.scoring.greedy import best
from pipeline.scoring.hellaswag import hellaswag
from pipeline.scoring.lambada import lambada
from pipeline.scoring.tails import exp
from pipeline.scoring.wikitext import rolling, wikitext
from tests.conftest import run

TOKENIZER = BpeTokenizer([(116, 104), (32, 257)])  # "th" and " th": a token may reach over a space
# The schema of hellaswag_val.jsonl: brackets of WikiHow, an activity without ctx_b, endings of unequal lengths, a tie.
ROWS: list[dict[str, Any]] = [
    {
        "ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
        "ctx": "A man is sitting on a roof. he", "split": "val", "split_type": "indomain", "label": 3,
        "endings": ["is using wrap.", "is ripping tiles off.", "holds a cube.", "starts pulling up roofing on a roof."],
        "source_id": "activitynet~v_-JhWjGDPHMY",
    },
    {
        "ind": 38, "activity_label": "Health", "ctx_a": "[header] How to sleep [title] Go to bed. [step] Do it early.", "ctx_b": "",
        "ctx": "[header] How to sleep [title] Go to bed. [step] Do it early.", "split": "val", "split_type": "zeroshot", "label": 0,
        "endings": ["Then  rest. [substeps] Now.", "[title] The end.", "Eat.", "It is late, and the day was long [substeps]"],
        "source_id": "wikihow~6575",
    },
    {
        "ind": 99, "activity_label": "Tie", "ctx_a": "Once", "ctx_b": "there was", "ctx": "Once there was", "split": "val",
        "split_type": "zeroshot", "label": 1, "endings": ["one.", "one.", "two, then three.", "one."], "source_id": "made~1",
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Model:
    config = Gpt(kind="gpt", layers=1, heads=2, channels=16, context=96, vocab_size=259, padded_vocab_size=272)
    found = Model(config, 8, training=False)
    generator = torch.Generator().manual_seed(4)
    for name, view in found.weights.items():
        view.copy_(0.3 * torch.randn(view.shape, generator=generator) + ("ln_" in name and name.endswith("weight")))
    return found


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def alone(model: Model, context: list[int], tail: list[int]) -> list[float]:
    """Losses of a tail, its row alone."""
    row = torch.tensor([(context + tail)[-(model.config.context + 1) :]], dtype=torch.int32)
    losses = model.losses(row[:, :-1].contiguous(), row[:, 1:].contiguous())
    return [float(x) for x in losses[0, -len(tail) :]]


def plainly(model: Model, protocol: str) -> tuple[float, float]:
    """acc and acc_norm by loops alone."""
    right = norm = 0
    for row in ROWS:
        if protocol == "llmc":
            context = TOKENIZER.encode(row["ctx"])
            tails = [TOKENIZER.encode(" " + ending) for ending in row["endings"]]
            sizes = [len(tail) for tail in tails]
        else:
            query = {
                24: "Roof shingle removal: A man is sitting on a roof. He",
                38: "Health:  How to sleep. Go to bed. Do it early. ",
                99: "Tie: Once There was",
            }[row["ind"]]
            choices = {
                38: ["Then rest. Now.", ". The end.", "Eat.", "It is late, and the day was long "],
            }.get(row["ind"], row["endings"])
            stripped = query.rstrip()
            context = TOKENIZER.encode(stripped)
            whole = [TOKENIZER.encode(stripped + query[len(stripped) :] + " " + choice) for choice in choices]
            tails = [ids[len(context) :] for ids in whole]
            sizes = [len(choice) for choice in choices]
        nats = [sum(alone(model, context, tail)) for tail in tails]
        means = [loss / size for loss, size in zip(nats, sizes, strict=True)]
        best, best_mean = 0, 0
        for i in range(1, 4):
            best = i if nats[i] < nats[best] else best
            best_mean = i if means[i] < means[best_mean] else best_mean
        right += best == row["label"]
        norm += best_mean == row["label"]
    return right / len(ROWS), norm / len(ROWS)


def test_hellaswag_is_that_of_both_protocols(model: Model, tmp_path: Path) -> None:
    path = written(tmp_path / "hellaswag_val.jsonl", ROWS)
    rows: list[Any] = list(BENCHMARKS["hellaswag"](path, TOKENIZER))
    found: list[Any] = [hellaswag(model, rows, batch) for batch in (1, 3, 8)]
    assert found[0] == found[1] == found[2], "no batch size changes a bit"
    for protocol in ("llmc", "lm_eval"):
        assert (found[0][protocol]["acc"], found[0][protocol]["acc_norm"]) == plainly(model, protocol)
    # Every label in turn, so that the two protocols and measures are told apart and a tie goes to the first.
    seen = set()
    for label in range(4):
        for row, made in zip(ROWS, rows, strict=True):
            row["label"] = made["label"] = label
        scores: Any = hellaswag(model, rows, 8)
        for protocol in ("llmc", "lm_eval"):
            assert (scores[protocol]["acc"], scores[protocol]["acc_norm"]) == plainly(model, protocol)
            seen.add((label, protocol, scores[protocol]["acc"], scores[protocol]["acc_norm"]))
    assert len({scores[2:] for scores in seen}) > 2

    class Even:
        """Every token costs the same: the shortest ending wins, the first of equals."""

        config, memory = SimpleNamespace(context=96), SimpleNamespace(device=torch.device("cpu"))

        def losses(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return torch.ones(targets.shape)

    tie: list[Any] = [dict(rows[2], label=0), dict(rows[2], label=1), dict(rows[2], label=2)]
    even: Any = Even()
    assert hellaswag(even, tie, 8)["llmc"] == {"acc": 1 / 3, "acc_norm": 1 / 3, "nats": float(3 * (3 * 5 + 13)).hex()}


def test_the_texts_of_lm_evaluation_harness() -> None:
    assert cleaned("  [header] A [title] B. [step] C  [x]d ") == " A. B. C d"
    assert cleaned("[header] How [title] Go.") == " How. Go."
    assert encode_pair("a ", "the", TOKENIZER) == (
        [97],
        [258, 101],
    )  # the space goes to the continuation: " th" is a token
    assert encode_pair("t", "he", TOKENIZER) == ([116], [101]), (
        "a token that reaches over the cut counts to the context"
    )
    page = ' \n = A title = \n \n It \'s ( a ) " b " , 1 @,@ 000 @-@ fold . \n'
    assert detokenised(page) == '\n= A title =\n\nIt\'s (a) "b", 1,000-fold.\n'
    text = " \n = One = \n \n text \n = = Part = = \n more \n = Two = \n end \n"
    assert list(pages(text)) == [" = One = \n \n text \n = = Part = = \n more ", " = Two = \n end \n"]


def test_lambada_asks_for_the_last_word(model: Model, tmp_path: Path) -> None:
    path = written(
        tmp_path / "lambada_test.jsonl",
        [{"text": "a b the"}, {"text": "it was the other thing"}, {"text": "x " * 60 + "y"}],
    )
    rows: list[Any] = list(BENCHMARKS["lambada"](path, TOKENIZER))
    assert rows[0] == {"context": TOKENIZER.encode("a b"), "word": [258, 101]}
    # A row whose last word is what the model would say, token by token.
    context, word = TOKENIZER.encode("so"), list[int]()
    for _ in range(2):
        word.append(int(best(model, torch.tensor([context + word], dtype=torch.int32))[0, -1]))
    rows.append({"context": context, "word": word})
    found = [lambada(model, rows, batch) for batch in (1, 2, 8)]
    assert found[0] == found[1] == found[2]
    nats = math.fsum(x for row in rows for x in alone(model, row["context"], row["word"]))
    assert found[0]["nats"] == nats.hex()
    assert found[0]["perplexity"] == pytest.approx(math.exp(nats / 4), rel=1e-14)
    greedy = 0
    for row in rows:
        ids = (row["context"] + row["word"])[-97:]
        guess = best(model, torch.tensor([ids[:-1]], dtype=torch.int32))[0, -len(row["word"]) :].tolist()
        greedy += guess == row["word"]
    assert found[0]["acc"] == greedy / 4 >= 0.25
    assert exp(1.0) == math.e
    assert exp(-0.5) == pytest.approx(math.exp(-0.5), rel=1e-15)


def test_the_best_token_is_the_first_of_the_largest_logits(model: Model) -> None:
    cfg = model.config
    twin = Model(cfg, 2, training=False, decode_batch=2)
    for name, view in twin.weights.items():
        view.copy_(model.weights[name])
    twin.weights["wte.weight"][7] = twin.weights["wte.weight"][200]  # equal logits for two tokens
    twin.weights["wte.weight"][cfg.vocab_size :] = 9.0  # padded rows are never chosen
    tokens = torch.tensor([[200, 200, 5], [7, 3, 200]], dtype=torch.int32)
    logits = torch.stack([twin.decode(tokens[:, t : t + 1].contiguous(), t).clone() for t in range(3)], dim=1)
    expected = logits[:, :, : cfg.vocab_size].max(-1, keepdim=True).values == logits[:, :, : cfg.vocab_size]
    assert best(twin, tokens).tolist() == expected.int().argmax(-1).tolist()


def test_word_perplexity_is_over_every_token_once(model: Model, tmp_path: Path) -> None:
    tokens = list(range(50, 57))
    assert list(rolling(tokens, 1, 3)) == [([1], [50, 51, 52]), ([52], [53, 54, 55]), ([53, 54, 55], [56])]
    path = tmp_path / "wiki.test.raw"
    path.write_text(" \n = One = \n \n " + "some text , and more . " * 12 + "\n = Two = \n the end \n")
    rows: list[Any] = list(BENCHMARKS["wikitext"](path, TOKENIZER))
    assert len(rows) == 2
    found = [wikitext(model, rows, batch, 256) for batch in (1, 5)]
    assert found[0] == found[1]
    assert found[0]["tokens"] == sum(len(row["tokens"]) for row in rows)
    assert len(rows[0]["tokens"]) > 2 * model.config.context
    nats = 0.0
    for row in rows:
        whole, at = [256, *row["tokens"]], 1
        while at < len(whole):
            end = min(at + 96, len(whole))
            nats += sum(alone(model, whole[max(0, end - 97) : at], whole[at:end]))
            at = end
    assert float.fromhex(found[0]["nats"]) == pytest.approx(nats, rel=1e-12)
    # As re.split counts: "", =, One, =, 12 x 6 words, ""; "", =, Two, =, the, end, "".
    assert [row["words"] for row in rows] == [77, 7]
    assert found[0]["words"] == 84
    assert found[0]["word_perplexity"] == pytest.approx(math.exp(nats / found[0]["words"]), rel=1e-12)


def test_what_is_no_row_is_named(tmp_path: Path) -> None:
    for kind, row, message in (
        ("hellaswag", {k: v for k, v in ROWS[0].items() if k != "ctx_b"}, "line 1: no column 'ctx_b'"),
        ("hellaswag", ROWS[0] | {"label": "x"}, "line 1: label 'x', expected a number from 0 to 3"),
        ("hellaswag", ROWS[0] | {"endings": ["a", 3]}, "line 1: endings"),
        ("lambada", {"text": "word"}, "line 1: 'word' has no last word behind a space"),
    ):
        with pytest.raises(UserError, match=message):
            list(BENCHMARKS[kind](written(tmp_path / "rows.jsonl", [row]), TOKENIZER))
    (tmp_path / "wiki.zip").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(UserError, match=r"not UTF-8 at byte 4; give wiki\.test\.raw, not its zip"):
        list(BENCHMARKS["wikitext"](tmp_path / "wiki.zip", TOKENIZER))


def test_a_recipe_asks_for_benchmarks(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The stages: the pinned files to tokens, and their scores in eval_<step>.json, each under its own key."""
    import shutil

    from pipeline.base.files import sha256_of
    from pipeline.recipe import load_recipe
    from pipeline.scoring.table import Subject, scores

    wiki = tmp_path / "wiki.test.raw"
    wiki.write_text(" = One = \n Once there was a fox . \n")
    files = {
        "hellaswag": (written(tmp_path / "h.jsonl", ROWS), "jsonl"),
        "lambada": (written(tmp_path / "l.jsonl", [{"text": "once there was"}]), "jsonl"),
        "wikitext": (wiki, "text"),
    }
    asked = ", ".join(
        f"{{kind: {kind}, source: {{kind: file, path: {path}, sha256: {sha256_of(path)}, format: {form}}}}}"
        for kind, (path, form) in files.items()
    )
    recipe_path = tmp_path / "recipe.yaml"
    recipe_path.write_text(tiny["recipe"].read_text().replace("{kind: choices}", asked))
    tokens = tmp_path / "tokens"
    shutil.copytree(tiny["tokens"], tokens)
    said = run("-m", "pipeline.prepare_questions", "--recipe", str(recipe_path), "--tokens", str(tokens))
    assert [line.split(": ")[-1] for line in said.splitlines()] == [
        "3 hellaswag rows",
        "1 lambada rows",
        "1 wikitext rows",
    ]
    recipe = load_recipe(recipe_path)
    assert recipe.bits.model.kind == "gpt"
    small = Model(recipe.bits.model, 4, training=False)
    small.initialise(1, recipe.bits.init)
    assert list(scores(Subject(recipe, small, tokens, 4, step=3))) == ["validation"]
    found = scores(Subject(recipe, small, tokens, 4, step=6))
    assert list(found) == ["validation", "hellaswag", "lambada", "wikitext"]
    # On the way, where the recipe says so: one of them at the checkpoint of step 3, with the same bits as ever.
    on_the_way = tmp_path / "on_the_way.yaml"
    on_the_way.write_text(recipe_path.read_text().replace("{kind: lambada, ", "{kind: lambada, at: [3], "))
    early = scores(Subject(load_recipe(on_the_way), small, tokens, 4, step=3))
    assert list(early) == ["validation", "lambada"]
    assert early["lambada"] == found["lambada"]
    assert list(scores(Subject(load_recipe(on_the_way), small, tokens, 4, step=6))) == list(found)
    on_the_way.write_text(on_the_way.read_text().replace("at: [3]", "at: [3, 4]"))
    with pytest.raises(UserError, match=r"lambada: at 4: no checkpoint; add it to artifacts\.checkpoints"):
        load_recipe(on_the_way)
    assert found["wikitext"]["pages"] == found["lambada"]["texts"] == 1
    stem = recipe.artifacts.asked[0].stem
    from pipeline.prepare_questions import prepare

    with pytest.raises(UserError, match="no benchmark called nothing"):
        prepare(recipe_path, None, tokens, tmp_path, None, "nothing")
    (tokens / f"{stem}.source.json").unlink()
    with pytest.raises(UserError, match=r"no such file; python -m pipeline\.prepare_questions"):
        scores(Subject(recipe, small, tokens, 4, step=6))
