"""The prompts of a recipe as tokens, and what is wrong with prompts and questions before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cuda_ops.errors import UserError
from pipeline.data.tokenizers import Tokenizer, load_tokenizer
from pipeline.recipe import Gpt, Recipe
from pipeline.recipe.paths import CHOICES, SUMMARY

if TYPE_CHECKING:
    from pipeline.data.contents import Question, Tokens


def prompt_tokens(tokenizer: Tokenizer, text: str, key: str) -> list[int]:
    """The separator, where the tokenizer has one, and the text; key: of the recipe, for messages."""
    try:
        tokens = tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"{key} {text!r} cannot be written: {error}") from None
    if tokenizer.separator is not None:
        tokens = [tokenizer.separator, *tokens]
    if not tokens:
        raise UserError(f"{key} is empty and the tokenizer has no separator: give some text")
    return tokens


def check_prompts(recipe: Recipe, tokenizer: Tokenizer, key: str = "artifacts.samples.prompts[{}]") -> list[list[int]]:
    """The tokens of every prompt; a UserError if one cannot be drawn from, so that it comes before training.

    key: what a message calls a prompt, with its number.
    """
    samples, model = recipe.artifacts.samples, recipe.bits.model
    if samples is None or not isinstance(model, Gpt):
        return []
    if model.context < 2:
        raise UserError(
            f"bits.model.context {model.context} is too short to draw samples: at least 2, or leave samples out"
        )
    found = []
    for i, text in enumerate(samples.prompts):
        found.append(prompt_tokens(tokenizer, text, key.format(i)))
        if len(found[-1]) > model.context:
            raise UserError(
                f"{key.format(i)} has {len(found[-1])} tokens, bits.model.context is {model.context}: give a shorter prompt"
            )
    return found


def check_prepared(recipe: Recipe, folder: Path) -> None:
    """A UserError if tokens that lie there already, another recipe's perhaps, cannot serve this one: its context, its
    prompts, its questions. Damage is not looked for here.
    """
    model, samples = recipe.bits.model, recipe.artifacts.samples
    if not isinstance(model, Gpt) or not (folder / SUMMARY).exists():
        return
    try:
        about: Tokens = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        counts = {"train": about["train"]["tokens"], "validation": about["validation"]["tokens"]}
        tokenizer = load_tokenizer(folder)
    except (UserError, ValueError, KeyError, TypeError):
        return
    for split, count in counts.items():
        if count <= model.context:
            raise UserError(
                f"{recipe.name}: bits.model.context {model.context} is too long: the {split} split has {count} tokens, "
                f"a window takes {model.context + 1}; give more text or a smaller context"
            )
    if samples is not None:
        check_prompts(recipe, tokenizer)
    if recipe.artifacts.wants("choices") and recipe.artifacts.choices.source is None and (folder / CHOICES).exists():
        check_endings(folder / CHOICES, model.context)


def check_endings(path: Path, context: int) -> None:
    """A UserError if an ending of the tokenised questions does not fit the context."""
    questions: list[Question] = json.loads(path.read_text(encoding="utf-8"))
    for number, question in enumerate(questions):
        for i, ending in enumerate(question["endings"]):
            if not 0 < len(ending) <= context:
                raise UserError(
                    f"{path}: ending {i} of question {number} has {len(ending)} tokens; bits.model.context {context} "
                    f"takes 1 to {context}: leave choices out of artifacts.scores, or ask shorter ones"
                )
