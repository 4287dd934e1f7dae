"""Questions and benchmarks of a source of their own (artifacts.scores: [{kind: hellaswag, source: …}]) to token ids.

    python -m pipeline.prepare_questions --recipe my.yaml
    results/data/fables-…/bpe512-…/choices-1f2e3d4c.json: 400 questions

Writes choices-<digest of the source>.json into the folder of the prepared corpus, by its tokenizer, and a record of its
SHA-256 beside it: recipes share the folder, so tokens.json knows nothing of them. A URL is fetched into raw/ of the corpus.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_json
from pipeline.data.benchmarks import BENCHMARKS
from pipeline.data.contents import PreparedQuestions
from pipeline.data.prompts import check_endings
from pipeline.data.questions import questions_of, write_questions, write_rows
from pipeline.data.sources import pinned_file
from pipeline.data.tokenizers import load_tokenizer
from pipeline.recipe import Gpt, load_recipe
from pipeline.recipe.artifacts import ChoicesScore
from pipeline.recipe.paths import GPT2_BPE, choices_name, data_dir, record_name, tokens_dir


def prepare(
    recipe_path: Path, data: Path | None, tokens: Path | None, gpt2_folder: Path, local: Path | None, stem: str = ""
) -> str:
    """Run the stage for one score; returns the line it prints."""
    recipe = load_recipe(recipe_path)
    model, asked = recipe.bits.model, [s for s in recipe.artifacts.asked if stem in ("", s.stem)]
    if not asked or not isinstance(model, Gpt):
        raise UserError(
            f"{recipe_path}: artifacts.scores has no {{kind: choices, source: …}}, no benchmark"
            f"{f' called {stem}' if stem else ''}; the corpus' own questions are prepared by python -m pipeline.prepare_text"
        )
    lines = []
    for wanted in asked:
        folder, out = data or data_dir(recipe), (tokens or tokens_dir(recipe)) / choices_name(wanted.stem)
        assert wanted.source is not None
        path = pinned_file(wanted.source, "artifacts.scores.source", folder / "raw" / wanted.stem, local)
        tokenizer = load_tokenizer(out.parent, gpt2_folder)
        if isinstance(wanted, ChoicesScore):
            count, digest = write_questions(out, questions_of(path), tokenizer)
        else:
            count, digest = write_rows(out, BENCHMARKS[wanted.kind](path, tokenizer))
        if count == 0:
            raise UserError(f"{path}: there is no question in it; artifacts.scores.source names it")
        if isinstance(wanted, ChoicesScore):
            check_endings(out, model.context)
        record: PreparedQuestions = {"sha256": digest}
        write_json(out.parent / record_name(wanted.stem), record)
        lines.append(f"{out}: {count:,} {'questions' if wanted.kind == 'choices' else wanted.kind + ' rows'}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Questions of a source of their own to token ids.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the corpus (default: from the recipe)")
    parser.add_argument("--tokens", type=Path, help="folder of the tokenizer, written to (default: from the recipe)")
    parser.add_argument("--gpt2", type=Path, default=GPT2_BPE, help="folder of GPT-2's vocabulary files")
    parser.add_argument("--local", type=Path, help="a local copy of the file behind the URL")
    parser.add_argument("--stem", default="", help="prepare the one score of this name (default: all)")
    args = parser.parse_args()
    print(prepare(args.recipe, args.data, args.tokens, args.gpt2, args.local, args.stem))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
