"""Draw texts from a checkpoint.

    python -m pipeline.sample --recipe config/recipes/fables.yaml --checkpoint results/runs/fables/step_001000.safetensors
    results/runs/fables/samples.json: 4 samples of 120 tokens

Token number n of draw d of prompt p is decided by uniform number (p * draws + d) * length + n of the stream SAMPLE: a pure
function, so the draws decoded together cannot change a bit. Decoding uses a KV cache, whose bits are those of the full
forward pass; where the context is full, its second half is read again as a new beginning. <|endoftext|> ends a sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_json
from pipeline.base.philox import Stream
from pipeline.data.tokenizers import Tokenizer, load_tokenizer
from pipeline.machine.devices import device_errors
from pipeline.recipe import Recipe, Samples, load_recipe
from pipeline.recipe.paths import run_dir, tokens_dir
from pipeline.records.receipt import receipt

if TYPE_CHECKING:
    from pipeline.models.gpt import Gpt


def draw(
    model: Gpt, prompt: list[int], samples: Samples, first: int, draws: int, separator: int | None
) -> list[list[int]]:
    """New tokens of `draws` draws of one prompt, decoded together; the first draw is number `first` of the run."""
    from cuda_ops import ops

    context, vocab = model.config.context, model.config.vocab_size
    rows = [list(prompt) for _ in range(draws)]
    device = model.memory.device
    uniforms = torch.zeros(draws, samples.length, device=device)
    for d in range(draws):
        offset = (first + d) * samples.length
        ops.fill_uniform(uniforms[d], samples.seed, int(Stream.SAMPLE), offset)
    chosen = torch.zeros(draws, dtype=torch.int32, device=device)
    position, pending = 0, _tail(rows, min(len(prompt), context)).to(device)
    for n in range(samples.length):
        if position + pending.shape[1] > context:
            position, pending = 0, _tail(rows, context // 2).to(device)
        logits = model.decode(pending, position)
        position += pending.shape[1]
        ops.sample(chosen, logits, uniforms[:, n].contiguous(), vocab, samples.temperature, samples.top_k)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.append(token)
        pending = chosen.view(-1, 1).clone()
    new = [row[len(prompt) :] for row in rows]
    return [row[: row.index(separator)] if separator in row else row for row in new]


def _tail(rows: list[list[int]], count: int) -> Tensor:
    return torch.tensor([row[-count:] for row in rows], dtype=torch.int32)


def sample(recipe: Recipe, tokenizer: Tokenizer, model: Gpt, batch: int) -> list[dict[str, Any]]:
    """Every prompt's draws, `batch` at a time."""
    wanted = recipe.artifacts.samples
    results: list[dict[str, Any]] = []
    for p, text in enumerate(wanted.prompts):
        prompt = ([] if tokenizer.separator is None else [tokenizer.separator]) + tokenizer.encode(text)
        if not prompt:
            raise UserError(
                f"artifacts.samples.prompts[{p}] is empty and the tokenizer has no separator: give some text"
            )
        for d in range(0, wanted.draws, batch):
            count = min(batch, wanted.draws - d)
            for ids in draw(model, prompt, wanted, p * wanted.draws + d, count, tokenizer.separator):
                results.append({"prompt": text, "tokens": ids, "text": tokenizer.decode(ids)})
    return results


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
    out = args.out or run_dir(recipe) / "samples.json"
    with receipt(out.parent / "receipts" / "sample.json", "sample"), device_errors(f"sampling from {args.checkpoint}"):
        from cuda_ops import runtime
        from pipeline.base.checkpoint import load
        from pipeline.scoring.model import load_model

        runtime.set_threads(args.threads)
        tokenizer = load_tokenizer(args.tokens or tokens_dir(recipe))
        batch = min(args.batch_size, recipe.artifacts.samples.draws)
        model = load_model(recipe, load(args.checkpoint), args.checkpoint, batch, batch, args.device)
        results = sample(recipe, tokenizer, model, batch)
        write_json(out, results)
    print(f"{out}: {len(results)} samples of up to {recipe.artifacts.samples.length} tokens")
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
