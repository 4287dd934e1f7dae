"""pytest tests/scoring/test_scores.py

Scores added by hand: questions of any number of endings, losses and accuracy of images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cuda_ops.errors import UserError
from pipeline.data.contents import Question, QuestionText
from pipeline.data.prepared import Prepared
from pipeline.recipe import load_recipe, recipe_id
from pipeline.scoring.choices import choices, questions_in
from pipeline.scoring.images import accuracy, loss
from tests.conftest import run


class Fixed:
    """A stand-in for a model whose loss of a token is its own number."""

    config = SimpleNamespace(context=16)
    memory = SimpleNamespace(device=torch.device("cpu"))

    def losses(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return targets.float()


def test_questions_have_any_number_of_endings() -> None:
    questions: list[Question] = [
        {"context": [1], "endings": [[9], [4, 4]], "bytes": [9, 1], "label": 1},  # 9, 8; per byte 1, 8
        {"context": [2, 2], "endings": [[5], [5], [3], [6], [3], [7]], "bytes": [1] * 6, "label": 2},
        {"context": [], "endings": [[1, 8], [1, 1, 2], [1, 9]], "bytes": [1, 9, 2], "label": 0},
    ]
    fixed: Any = Fixed()
    for batch in (1, 4, 100):
        result = choices(fixed, questions[:2], batch)
        assert [len(row) for row in result["nats"]] == [2, 6]
        assert result["nats"][0] == [(9.0).hex(), (8.0).hex()]
        assert (result["acc"], result["acc_norm"]) == (1.0, 0.5)
    with pytest.raises(UserError, match="an ending of 17 tokens does not fit the context of 16"):
        choices(fixed, [{"context": [1], "endings": [[1] * 17, [2]], "bytes": [1, 1], "label": 0}], 3)


class Means:
    """A stand-in for a classifier of two pixels: the logits are the pixels, the loss is the label."""

    config = None
    memory = SimpleNamespace(device=torch.device("cpu"))

    @staticmethod
    def lane(config: object, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float()

    def losses(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return targets.float() + 0.5


def test_accuracy_is_the_first_largest_logit_and_losses_add_exactly() -> None:
    records = np.array([[0, 9, 1], [1, 2, 3], [0, 5, 5], [1, 5, 5], [1, 9, 0]], dtype=np.uint8)  # right: 0, 1, 2
    means: Any = Means()
    for batch in (1, 2, 5, 9):
        assert accuracy(means, records, batch) == {"images": 5, "right": 3, "share": 0.6}
        assert loss(means, records, batch) == {"images": 5, "nats": (5.5).hex(), "nats_per_image": 1.1}


def test_questions_of_a_source_of_their_own(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Two recipes over one corpus: one asks the corpus' questions, one its own; neither moves the other's files or id."""
    from pipeline.base.files import sha256_of

    asked = tmp_path / "asked.jsonl"
    rows = [
        {"context": "Once there was", "endings": [" a fox", " a bear", " an owl"], "label": 2},
        {"context": "Ada", "endings": [" was sad.", " was happy."], "label": 0},
    ]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    source = f"{{kind: file, path: {asked}, sha256: {sha256_of(asked)}, format: jsonl}}"
    path.write_text(tiny["recipe"].read_text().replace("{kind: choices}", f"{{kind: choices, source: {source}}}"))
    recipe = load_recipe(path)
    assert recipe_id(recipe) == recipe_id(load_recipe(tiny["recipe"]))
    flags = ["--recipe", str(path)]
    run("-m", "pipeline.download", *flags, "--out", str(tmp_path / "data"))
    run("-m", "pipeline.prepare_text", *flags, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "tokens"))
    with pytest.raises(UserError, match=r"no such file; python -m pipeline\.prepare_questions"):
        questions_in(Prepared(tmp_path / "tokens"), recipe.artifacts.choices.stem)
    said = run("-m", "pipeline.prepare_questions", *flags, "--tokens", str(tmp_path / "tokens"))
    assert said.strip().endswith(f"{recipe.artifacts.choices.stem}.json: 2 questions")
    for name in ("tokens.json", "choices.json", "train_000000.bin"):
        assert (tmp_path / "tokens" / name).read_bytes() == (tiny["tokens"] / name).read_bytes()
    found = questions_in(Prepared(tmp_path / "tokens"), recipe.artifacts.choices.stem)
    assert [len(question["endings"]) for question in found] == [3, 2]
    assert [question["label"] for question in found] == [2, 0]
    assert [question["bytes"] for question in found] == [[6, 7, 7], [9, 11]]
    assert len(questions_in(Prepared(tmp_path / "tokens"), "choices")) == 12
    stem = tmp_path / "tokens" / f"{recipe.artifacts.choices.stem}.json"
    stem.write_text(stem.read_text().replace('"label": 2', '"label": 1'))
    with pytest.raises(UserError, match="changed since it was written"):
        questions_in(Prepared(tmp_path / "tokens"), recipe.artifacts.choices.stem)
    for line, message in (
        ('{"context": "a", "endings": ["b"], "label": 0}', r"line 1: endings \['b'\], expected a list of at least 2"),
        ('{"context": "a", "endings": ["b", ""], "label": 0}', "line 1: ending 1 is empty"),
        ('{"context": "a", "endings": ["b", "c"], "label": 2}', "line 1: label 2, expected a number from 0 to 1"),
        ('{"endings": ["b", "c"], "label": 1}', "line 1: no column 'context'"),
    ):
        from pipeline.data.questions import questions_of

        asked.write_text(line + "\n")
        with pytest.raises(UserError, match=message):
            list(questions_of(asked))


def test_a_question_that_the_vocabulary_cannot_write_is_named(tmp_path: Path) -> None:
    from pipeline.data.questions import write_questions
    from pipeline.data.tokenizers import CharTokenizer

    right: QuestionText = {"context": "a", "endings": ["b", "c"], "label": 0}
    wrongs: list[tuple[QuestionText, str]] = [
        ({"context": "aß", "endings": ["b", "c"], "label": 0}, "context 'aß'"),
        ({"context": "a", "endings": ["b", "ñ"], "label": 0}, "ending 1 'ñ'"),
    ]
    for wrong, words in wrongs:
        said = rf"question 2: {words} cannot be written: character '.' is not in the corpus; it knows 3: 'abc'; ask in these"
        with pytest.raises(UserError, match=said):
            write_questions(tmp_path / "choices.json", [right, wrong], CharTokenizer("abc"))
    assert not list(tmp_path.iterdir())


def test_the_loss_of_the_first_tokens_of_the_split(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Token k's loss is k to a stand-in: the sum of the first ones says which were scored."""
    from pipeline.data.shards import read_shard
    from pipeline.scoring.table import Subject, scores

    tokens = read_shard(Prepared(tiny["tokens"]).file("val_000000.bin")).astype(int)
    for order in ("documents", "permutation"):
        for asked, scored in ((1, 1), (100, 100), (10**9, len(tokens) - 1)):
            path = tmp_path / "recipe.yaml"
            text = (
                tiny["recipe"].read_text().replace("{kind: loss}, {kind: choices}", f"{{kind: loss, tokens: {asked}}}")
            )
            path.write_text(text.replace("order: documents", f"order: {order}"))
            found = scores(Subject(load_recipe(path), Fixed(), tiny["tokens"], 3, step=6))["validation"]
            assert found["tokens"] == scored
            assert float.fromhex(str(found["nats"])) == float(tokens[1 : scored + 1].sum())
            assert ("nats_per_byte" in found) == (asked == 10**9)
    patterns = (tiny["recipe"].parent / "patterns.yaml").read_text()
    path.write_text(patterns.replace("{kind: loss}", "{kind: loss, tokens: 3}"))
    with pytest.raises(UserError, match=r"loss: tokens is for data\.kind text"):
        load_recipe(path)
