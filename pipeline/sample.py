"""Draw texts from a checkpoint (pipeline/scoring/draw.py).

python -m pipeline.sample --recipe config/recipes/fables.yaml --checkpoint results/runs/fables/step_001000.safetensors
results/runs/fables/samples.json: 4 samples of up to 120 tokens
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_json
from pipeline.data.tokenizers import load_tokenizer
from pipeline.machine.devices import device_errors
from pipeline.recipe import load_recipe
from pipeline.recipe.paths import RECEIPTS, SAMPLES, receipt_name, run_dir, tokens_dir
from pipeline.records.receipt import receipt

if TYPE_CHECKING:
    from pipeline.models.model import Generator


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw texts from a checkpoint.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="folder of the tokenizer (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="file to write (default: samples.json of the run)")
    parser.add_argument("--batch-size", type=int, default=8, help="draws decoded together; never changes a bit")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; never changes a bit")
    parser.add_argument("--threads", type=int, default=1, help="never changes a bit")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    samples = recipe.artifacts.samples
    if samples is None:
        raise UserError(f"{args.recipe}: artifacts.samples is left out, so there is nothing to draw; give its prompts")
    out = args.out or run_dir(recipe) / SAMPLES
    record = out.parent / RECEIPTS / receipt_name("sample")
    with receipt(record, "sample"), device_errors(f"sampling from {args.checkpoint}"):
        from cuda_ops import runtime
        from pipeline.base.checkpoint import load
        from pipeline.scoring.draw import draw_all
        from pipeline.scoring.model import load_model

        runtime.set_threads(args.threads)
        tokenizer = load_tokenizer(args.tokens or tokens_dir(recipe))
        batch = min(args.batch_size, samples.draws)
        model = cast("Generator", load_model(recipe, load(args.checkpoint), args.checkpoint, batch, batch, args.device))
        results = draw_all(recipe, samples, tokenizer, model, batch)
        write_json(out, results)
    print(f"{out}: {len(results)} samples of up to {samples.length} tokens")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
