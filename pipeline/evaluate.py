"""Score a checkpoint: loss over the whole validation split, multiple-choice questions, accuracy (pipeline/scoring/table.py).

python -m pipeline.evaluate --recipe config/recipes/fables.yaml --checkpoint results/runs/fables/step_001000.safetensors
results/runs/fables/eval_001000.json: 0.2503 nats/token, 0.1031 bits/byte, acc 1.000, acc_norm 1.000
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

from cuda_ops.bounds import MOST_THREADS, whole
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
from pipeline.records.contents import Evaluation, Facts, in_words
from pipeline.records.receipt import receipt


def evaluate(
    recipe: Recipe, checkpoint: Path, folder: Path, batch: int, device: str = "cpu", facts: Facts | None = None
) -> Evaluation:
    """The content of eval_<n>.json; folder: what the preparation wrote. facts: for the receipt, filled where products
    are in digits.
    """
    from pipeline.base.checkpoint import load
    from pipeline.scoring.model import load_model
    from pipeline.scoring.table import Subject, scores

    state = load(checkpoint)
    model = load_model(recipe, state, checkpoint, batch, device=device)
    subject = Subject(recipe, model, folder, batch, step=state.step)
    if recipe.bits.numerics == "fp32" or facts is None:
        return cast(Evaluation, {"step": state.step} | scores(subject))
    from pipeline.scoring.blocks import OutlierBlocks

    model.observe = seen = OutlierBlocks()
    result = cast(Evaluation, {"step": state.step} | scores(subject))
    facts["digits"] = seen.facts()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Score a checkpoint.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="folder of what was prepared (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="file to write (default: eval_<step>.json of the run)")
    parser.add_argument("--batch-size", type=whole(1), default=8, help="samples together; never changes a bit")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; never changes a bit")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=1, help="never changes a bit")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    found = step_of(args.checkpoint.name)
    step = args.checkpoint.stem if found is None else found
    out = args.out or run_dir(recipe) / eval_name(step)
    with (
        receipt(out.parent / RECEIPTS / receipt_name("evaluate", step), f"evaluate {step}") as facts,
        device_errors(f"evaluating {args.checkpoint}"),
    ):
        from cuda_ops import runtime

        runtime.set_threads(args.threads)
        tokens = args.tokens or tokens_dir(recipe)
        result = evaluate(recipe, args.checkpoint, tokens, args.batch_size, args.device, facts)
        write_json(out, result)
    print(f"{out}: {in_words(result)}")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
