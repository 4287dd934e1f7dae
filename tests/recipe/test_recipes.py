"""pytest tests/recipe/test_recipes.py

What a user writes: one reading or one message with the key, the value and what is allowed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cuda_ops.errors import UserError
from pipeline.recipe import as_written, load_recipe, parse_recipe, recipe_id
from pipeline.recipe.values import values
from tests.conftest import ROOT

CASES = ROOT.parent / "shared" / "cases"
TINY = (ROOT / "tests" / "recipes" / "tiny.yaml").read_text()


def message(old: str, new: str) -> str:
    assert old in TINY
    with pytest.raises(UserError) as error:
        parse_recipe(values(TINY.replace(old, new, 1), "own.yaml"), "own.yaml")
    assert str(error.value).startswith("own.yaml: ")
    return str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed: 5", "seed: 5\n  seed: 5", "bits.seed: given twice; keep one (line 5)"),
        ("draws: 2,", "draws: 2, draws: 3,", "artifacts.samples.draws: given twice"),
        ("name: tiny\ndescription", "name: tiny\nname: tiny\ndescription", "name: given twice"),
        ("steps: 6", "steps: 0017", "bits.steps: 0017: YAML 1.1 and 1.2 read it differently (a number or text)"),
        ("steps: 6", "steps: -007", "bits.steps: -007: "),
        ("steps: 6", "steps: 09", "bits.steps: 09: "),
        ("steps: 6", "steps: 2:05:00", "bits.steps: 2:05:00: "),
        ("steps: 6", "steps: 0xff", "bits.steps: 0xff: "),
        ("steps: 6", "steps: 0b11", "bits.steps: 0b11: "),
        ("steps: 6", "steps: 1_000", "bits.steps: 1_000: "),
        ("peak: 3.0e-3", "peak: 1_0.5", "bits.schedule.peak: 1_0.5: "),
        ("steps: 6", "steps: off", "bits.steps: off: YAML 1.1 and 1.2 read it differently (true or false or text)"),
        ("A tiny GPT on a few fables, for tests", "2031-12-24", '2031-12-24: YAML 1.1 and 1.2 read it differently (a date'),
        ("A tiny GPT on a few fables, for tests", "2001-12-14t21:59:43.10-05:00", "description: 2001-12-14t21:59:43"),
        ("peak: 3.0e-3", "peak: -.Inf", "bits.schedule.peak: -.Inf: a number is finite"),
        ("peak: 3.0e-3", "peak: .NaN", "bits.schedule.peak: .NaN: a number is finite"),
        ("peak: 3.0e-3", "peak: 2e400", "bits.schedule.peak: 2e400: too large; a number is finite"),
        ("steps: 6", "steps: " + "9" * 5000, "bits.steps: a number of 5000 digits"),
        ("split: {by", "split: &s {self: *s, by", "bits.data.split.self: a value that contains itself"),
        ("checkpoints: [3]", "checkpoints: &c [3, *c]", "artifacts.checkpoints.1: a value that contains itself"),
        ("name: tiny\ndescription", "name: !!python/object/apply:os.getcwd []\ndescription", "name: tag tag:yaml.org"),
        ('["Once"]', '["Once", "a\\ud83d"]', "artifacts.samples.prompts.1: half a surrogate pair, '\\ud83d', at character 1"),
        ("seed: 5", "seed: !!int '5'", "bits.seed: Input should be a valid integer"),
        ("steps: 6", "? [a, b]\n  : 6", "bits: a list or map as a key"),
        ("checkpoints: [3]", "checkpoints: " + "[" * 60 + "]" * 60, "more than any recipe holds"),
    ],
)  # fmt: skip
def test_what_two_readers_could_read_differently_is_refused(old: str, new: str, expected: str) -> None:
    assert expected in message(old, new)


def test_what_has_one_reading_is_read() -> None:
    for old, new in (
        ("3.0e-3", "3e-3"),
        ("3.0e-3", "0.003"),
        ("3.0e-3", "3.0E-03"),
        ("3.0e-3", "+.003"),
        ("steps: 6", "steps: +6"),
    ):
        assert parse_recipe(values(TINY.replace(old, new), "r"), "r") == parse_recipe(values(TINY, "r"), "r")
    assert (
        parse_recipe(values(TINY.replace("A tiny GPT on a few fables, for tests", '"010"'), "r"), "r").description
        == "010"
    )
    shared = TINY.replace("by: documents", "by: &w documents").replace("order: documents", "order: *w")
    assert parse_recipe(values(shared, "r"), "r") == parse_recipe(values(TINY, "r"), "r")
    bomb = "a: &a [x, x]\n" + "".join(
        f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst", strict=True)
    )
    with pytest.raises(UserError, match="more than any recipe holds"):
        values(bomb, "r")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps: 6", "step: 6", "bits.step: unknown key; did you mean 'steps'? known here: batch, data"),
        ("questions: 12", "question: 12", "bits.data.source.question: unknown key; did you mean 'questions'?"),
        (
            "warmup_steps: 2",
            "warm_up_steps: 2",
            "bits.schedule.warm_up_steps: unknown key; did you mean 'warmup_steps'?",
        ),
        ("top_k: 20", "topk: 20", "artifacts.samples.topk: unknown key; did you mean 'top_k'?"),
        (
            "padded_vocab_size: 304",
            "padded_vocab_size: 304, zzz: 1",
            "bits.model.zzz: unknown key; known here: channels",
        ),
        ("order: documents", "order: permutations", "bits.data.order: Input should be 'sequential', 'permutation'"),
        ("order: documents", "order: permutations", "did you mean 'permutation'?, given 'permutations'"),
        ("kind: bpe", "kind: bp", "bits.data.tokenizer: Input tag 'bp'"),
        ("kind: bpe", "kind: bp", "did you mean 'bpe'?"),
        ("steps: 6", "steps: 6.5", "bits.steps: Input should be a valid integer"),
        ("seed: 5", "seed: -1", "bits.seed: Input should be greater than or equal to 0, given -1"),
    ],
)
def test_a_near_miss_is_named(old: str, new: str, expected: str) -> None:
    assert expected in message(old, new)


def test_a_misspelt_key_is_not_missing_as_well() -> None:
    said = message("steps: 6", "step: 6")
    assert "Field required" not in said
    assert "bits.steps: Field required" in message("steps: 6", "zzz: 6"), "the control: nothing near it is there"


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [("file", "sha256sum FILE"), ("url", "sha256sum prints"), ("pinned", "python -m pipeline.pin --list PINS")],
)
def test_a_source_without_its_digest_says_how_to_get_it(kind: str, remedy: str) -> None:
    content = values(TINY, "r")
    content["bits"]["data"]["source"] = {"kind": kind}
    with pytest.raises(UserError) as found:
        parse_recipe(content, "r")
    assert f"r: bits.data.source.sha256: Field required; {remedy}" in str(found.value)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ("[]", "artifacts.scores: every evaluation has the loss; add {kind: loss}, or leave scores out, given []"),
        ("[{kind: choices}]", "artifacts.scores: every evaluation has the loss; add {kind: loss}, or leave scores out"),
        (
            "[{kind: loss}, {kind: choices}, {kind: choices}]",
            "artifacts.scores: choices is asked for 2 times; keep one, given [{'kind': 'loss'}, {'kind': 'choices'}, ",
        ),
        ("[{kind: loss}, {kind: loss}, {kind: loss}]", "artifacts.scores: loss is asked for 3 times; keep one"),
    ],
)
def test_each_score_is_asked_for_once_and_the_loss_always(scores: str, expected: str) -> None:
    assert expected in message("[{kind: loss}, {kind: choices}]", scores)
    for remedy in ("[{kind: loss}, {kind: choices}]", "[{kind: choices}, {kind: loss}]", "[{kind: loss}]"):
        text = TINY.replace("[{kind: loss}, {kind: choices}]", remedy)
        assert parse_recipe(values(text, "r"), "r").artifacts.wants("loss")
    left_out = TINY.replace("  scores: [{kind: loss}, {kind: choices}]\n", "")
    assert [score.kind for score in parse_recipe(values(left_out, "r"), "r").artifacts.scores] == ["loss"]


def test_what_is_no_recipe_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory; a recipe is a YAML file"):
        load_recipe(tmp_path)
    (tmp_path / "fables.yaml").write_text("")
    for name, hint in (("none", "see config/recipes/"), ("fablse", f"did you mean {tmp_path}/fables.yaml?")):
        with pytest.raises(UserError, match=re.escape(f"{name}.yaml: no such recipe; {hint}")):
            load_recipe(tmp_path / f"{name}.yaml")
    path = tmp_path / "r.yaml"
    for content, expected in ((b"\xff\xfe", "not valid YAML"), (b"a: [", "not valid YAML"), (b"", "whole recipe"),
                              (b"[" * 20_000, "deeper than any recipe|not valid YAML"), (b"a: 1\n---\nb: 2\n", "not valid YAML"),
                              (b"- 1\n", "whole recipe")):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(UserError, match=expected):
            load_recipe(path)


def test_steps_beyond_a_million_are_a_recipe() -> None:
    recipe = parse_recipe(values(TINY.replace("steps: 6", "steps: 1234567"), "r"), "r")
    assert recipe.checkpoints == (3, 1_234_567)


def test_a_recipe_as_written_is_read_again() -> None:
    for path in [*(ROOT / "config" / "recipes").glob("*.yaml"), *(ROOT / "tests" / "recipes").glob("*.yaml")]:
        recipe = load_recipe(path)
        assert recipe_id(parse_recipe(as_written(recipe), "again")) == recipe_id(recipe)


@pytest.mark.skipif(not CASES.is_dir(), reason="inputs beside the checkout")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dup", "bits.steps: given twice"),
        ("octal", "bits.seed: 010: YAML 1.1 and 1.2 read it differently"),
        ("date", "description: 2024-01-01: YAML 1.1 and 1.2 read it differently"),
        ("inflr", r"bits.schedule.peak: \.inf: a number is finite"),
    ],
)
def test_the_recipes_that_were_read_wrongly(name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_recipe(CASES / f"recipe_{name}.yaml")
    assert load_recipe(CASES / "recipe_steps1m.yaml").bits.steps == 1_000_000
