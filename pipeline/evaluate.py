"""Score a checkpoint: loss over the whole validation split, multiple-choice questions, accuracy (pipeline/scoring/table.py).

python -m pipeline.evaluate --recipe config/recipes/fables.yaml --checkpoint results/runs/fables/step_001000.safetensors
step 1000: 0.2503 nats/token, 0.1031 bits/byte, acc 1.000, acc_norm 1.000
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import cast

from cuda_ops.errors import exit_on_user_error
from pipeline.base.files import write_json
from pipeline.machine.devices import device_errors
from pipeline.recipe import Recipe, load_recipe
from pipeline.recipe.paths import (
    RECEIPTS,
    eval_name,
    receipt_name,
    run_dir,
    step_of,
    tokens_dir,
)
from pipeline.records.contents import Evaluation
from pipeline.records.receipt import receipt


def evaluate(recipe: Recipe, checkpoint: Path, folder: Path, batch: int, device: str = "cpu") -> Evaluation:
    """The content of eval_<n>.json; folder: what the preparation wrote."""
    from pipeline.base.checkpoint import load
    from pipeline.scoring.model import load_model
    from pipeline.scoring.table import Subject, scores

    state = load(checkpoint)
    model = load_model(recipe, state, checkpoint, batch, device=device)
    subject = Subject(recipe, model, folder, batch, last=state.step == recipe.bits.steps)
    return cast(Evaluation, {"step": state.step} | scores(subject))


def summary(result: Evaluation) -> str:
    """One line of what was found."""
    loss, words = result["validation"], f"step {result['step']}: "
    if "images" in loss:
        words += f"{loss['nats_per_image']:.4f} nats/image"
    else:
        words += f"{loss['nats_per_token']:.4f} nats/token"
        if "nats_per_byte" in loss:
            words += f", {loss['nats_per_byte'] / math.log(2):.4f} bits/byte"
    if "choices" in result:
        words += f", acc {result['choices']['acc']:.3f}, acc_norm {result['choices']['acc_norm']:.3f}"
    if "hellaswag" in result:
        found = result["hellaswag"]
        words += (
            f", HellaSwag acc_norm {found['llmc']['acc_norm']:.4f} (llm.c) {found['lm_eval']['acc_norm']:.4f} (lm-eval)"
        )
    if "lambada" in result:
        words += f", LAMBADA acc {result['lambada']['acc']:.4f} perplexity {result['lambada']['perplexity']:.2f}"
    if "wikitext" in result:
        words += f", WikiText word perplexity {result['wikitext']['word_perplexity']:.2f}"
    if "accuracy" in result:
        words += f", accuracy {result['accuracy']['share']:.4f}"
    return words


def main() -> int:
    parser = argparse.ArgumentParser(description="Score a checkpoint.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="folder of what was prepared (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="file to write (default: eval_<step>.json of the run)")
    parser.add_argument("--batch-size", type=int, default=8, help="samples together; never changes a bit")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; never changes a bit")
    parser.add_argument("--threads", type=int, default=1, help="never changes a bit")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    found = step_of(args.checkpoint.name)
    step = args.checkpoint.stem if found is None else found
    out = args.out or run_dir(recipe) / eval_name(step)
    with (
        receipt(out.parent / RECEIPTS / receipt_name("evaluate", step), f"evaluate {step}"),
        device_errors(f"evaluating {args.checkpoint}"),
    ):
        from cuda_ops import runtime

        runtime.set_threads(args.threads)
        result = evaluate(recipe, args.checkpoint, args.tokens or tokens_dir(recipe), args.batch_size, args.device)
        write_json(out, result)
    print(summary(result))
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
