"""Draw texts from a checkpoint (pipeline/scoring/draw.py): those that its recipe asks for, or of a prompt of your own.

    python -m pipeline.sample --recipe config/recipes/fables.yaml --checkpoint results/runs/fables/step_001000.safetensors
    results/runs/fables/samples.json: 4 samples of up to 120 tokens

    python -m pipeline.sample --checkpoint results/runs/fables/step_001000.safetensors --prompt "The fox" --stream

The second prints the text and writes nothing; --stream prints each token as it comes. What is not given is as the
recipe's artifacts.samples has it, and equal settings give the text of samples.json. Recipe and tokenizer are found by
the checkpoint's metadata (pipeline/records/origin.py), or given.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import ValidationError

from cuda_ops.bounds import MOST_THREADS, whole
from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_json
from pipeline.data.prompts import check_prompts
from pipeline.data.tokenizers import load_tokenizer
from pipeline.machine.devices import device_errors
from pipeline.machine.room import check_outputs
from pipeline.recipe import Gpt, Recipe, Samples, load_recipe
from pipeline.recipe.paths import RECEIPTS, SAMPLES, receipt_name, run_dir
from pipeline.records.origin import recipe_of, tokens_of
from pipeline.records.present import present
from pipeline.records.receipt import receipt

if TYPE_CHECKING:
    from pipeline.models.model import Generator
    from pipeline.records.contents import Sample

OWN = ("prompts", "temperature", "top_k", "length", "draws", "seed")  # settings that a flag gives
MOST = 1_000_000  # new tokens of a text, and texts of a prompt


def settings_of(recipe: Recipe, args: argparse.Namespace) -> Samples:
    """The recipe's settings, with those of the flags in their place."""
    given = {name: value for name in OWN if (value := getattr(args, name)) is not None}
    if args.prompts:
        given["prompts"] = tuple(args.prompts)
    samples = recipe.artifacts.samples
    if samples is None and not given and not args.stream:
        raise UserError(f"{recipe.name}: artifacts.samples is left out, so there is nothing to draw; give --prompt")
    if not isinstance(recipe.bits.model, Gpt):
        raise UserError(f"{recipe.name}: a model of kind {recipe.bits.model.kind} draws no text; kind gpt does")
    for name in ("length", "draws"):
        if not 0 < given.get(name, 1) <= MOST:
            raise UserError(f"--{name} {given[name]}: expected 1 to {MOST:,}")
    if not math.isfinite(given.get("temperature", 1.0)):
        raise UserError(f"--temperature {args.temperature}: expected a number, 0 or more")
    try:
        return Samples(**(samples or Samples()).model_dump() | given)
    except ValidationError as error:
        item = error.errors()[0]
        raise UserError(f"--{str(item['loc'][0]).replace('_', '-')} {item['input']}: {item['msg']}") from None


def check_out(out: Path, recipe: Recipe, settings: Samples) -> None:
    """Refuse to write other texts over those of a run."""
    of_a_run = out.resolve().parent == run_dir(recipe).resolve() or bool(present(out.parent).current)
    if out.name == SAMPLES and of_a_run and settings != recipe.artifacts.samples:
        raise UserError(
            f"--out {out}: holds what the recipe asks for, and these settings are others; name another file"
        )


class Printed:
    """Texts on stdout, each after its prompt; a line before each where there are several."""

    def __init__(self, settings: Samples) -> None:
        self.settings, self.count, self.number = settings, len(settings.prompts) * settings.draws, -1

    def __call__(self, text: str, number: int) -> None:
        if number != self.number:
            self.number = number
            title = f"--- {number + 1} of {self.count}\n" if self.count > 1 else ""
            sys.stdout.write(("\n" if number else "") + title + self.settings.prompts[number // self.settings.draws])
        sys.stdout.write(text)
        sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw texts from a checkpoint.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, help="default: by the checkpoint's metadata")
    parser.add_argument("--tokens", type=Path, help="folder of the tokenizer (default: beside the checkpoint, or here)")
    parser.add_argument(
        "--out", type=Path, help="file to write (default: samples.json of the run, or, with a prompt, none)"
    )
    own = parser.add_argument_group("settings of one's own: the text is printed, and written only where --out says")
    own.add_argument("--prompt", action="append", dest="prompts", metavar="TEXT", help="may be given several times")
    own.add_argument("--temperature", type=float, help="0: always the likeliest token")
    own.add_argument("--top-k", type=int, help="among so many likeliest tokens; 0: no limit")
    own.add_argument("--length", type=int, help="most new tokens of a text")
    own.add_argument("--draws", type=int, help="texts of each prompt")
    own.add_argument("--seed", type=int)
    own.add_argument("--stream", action="store_true", help="print each token as it comes")
    parser.add_argument("--batch-size", type=whole(1), default=8, help="draws decoded together; never changes a bit")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; never changes a bit")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=1, help="never changes a bit")
    args = parser.parse_args()
    if args.recipe:
        recipe = load_recipe(args.recipe)
    else:
        from pipeline.base.checkpoint import load

        stored = load(args.checkpoint)
        recipe = recipe_of(args.checkpoint, stored.about, stored.recipe_id)
    settings = settings_of(recipe, args)
    check_outputs([args.out])
    if args.stream or any(getattr(args, name) is not None for name in OWN):
        if args.out:
            check_out(args.out, recipe, settings)
        results = drawn(args, recipe, settings, Printed(settings))
        print()
        if args.out:
            write_json(args.out, results)
        return 0
    out = args.out or run_dir(recipe) / SAMPLES
    with receipt(out.parent / RECEIPTS / receipt_name("sample"), "sample"):
        results = drawn(args, recipe, settings, None)
        write_json(out, results)
    print(f"{out}: {len(results)} samples of up to {settings.length} tokens")
    return 0


def drawn(args: argparse.Namespace, recipe: Recipe, settings: Samples, show: Printed | None) -> list[Sample]:
    """The texts, with their prompts and tokens; shown too if `show` says how."""
    from cuda_ops import runtime
    from pipeline.base.checkpoint import load
    from pipeline.scoring.draw import draw_all, stream
    from pipeline.scoring.model import load_model

    runtime.set_threads(args.threads)
    tokenizer = load_tokenizer(args.tokens or tokens_of(args.checkpoint, recipe))
    asked = recipe.artifacts.model_copy(update={"samples": settings})
    key = "artifacts.samples.prompts[{}]" if args.prompts is None else "--prompt (number {})"
    prompts = check_prompts(recipe.model_copy(update={"artifacts": asked}), tokenizer, key)
    batch = 1 if args.stream else min(args.batch_size, settings.draws)
    with device_errors(f"sampling from {args.checkpoint}"):
        stored = load(args.checkpoint)
        model = cast("Generator", load_model(recipe, stored, args.checkpoint, batch, batch, args.device))
        if show and args.stream:
            return stream(settings, prompts, tokenizer, model, show)
        results = draw_all(settings, prompts, tokenizer, model, batch)
    if show:
        for number, result in enumerate(results):
            show(result["text"], number)
    return results


if __name__ == "__main__":
    exit_on_user_error(main)
