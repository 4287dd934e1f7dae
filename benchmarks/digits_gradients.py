"""How far the gradients of a training step in digits are from those in fp32, layer by layer.

    python -m benchmarks.digits_gradients --recipe config/recipes/fables.yaml --tokens TOKENS --checkpoint results/runs/fables/step_000500.safetensors

The same weights, the same batch of the recipe's first step, one step in each tier; the gradient of the whole batch before
clipping. Error: the norm of the difference over the norm of fp32's. Without --checkpoint, from the initial weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.table import write
from cuda_ops.errors import exit_on_user_error
from pipeline.base.checkpoint import load
from pipeline.machine.execution import Execution
from pipeline.machine.ranks import Ranks
from pipeline.recipe import Recipe, load_recipe
from pipeline.recipe.paths import tokens_dir
from pipeline.training.trainer import Trainer

TIERS = ("int8x3", "int8x1")


def gradients(recipe: Recipe, numerics: str, tokens: Path, checkpoint: Path | None) -> dict[str, Tensor]:
    """Of every parameter, fp64, by the recipe's first step in a tier."""
    bits = recipe.bits.model_copy(update={"numerics": numerics})
    trainer = Trainer(recipe.model_copy(update={"bits": bits}), Execution(micro_batch=8), Ranks(), tokens)
    trainer.initialise()
    if checkpoint:
        tensors = load(checkpoint).tensors
        for name, weight in trainer.model.weights.items():
            weight.copy_(tensors[name])
    found: dict[str, Tensor] = {}

    def see(name: str, tensor: Tensor) -> None:
        if name.startswith("gradient/"):
            found[name.removeprefix("gradient/")] = tensor.double()

    trainer.observe = see
    trainer.train_step()
    return found


def group(name: str, layers: int) -> str:
    """The row of a parameter: its layer, the embeddings, or the last LayerNorm."""
    if name.startswith("h."):
        return f"layer {int(name.split('.')[1]) + 1} of {layers}"
    return "ln_f" if name.startswith("ln_f") else name.split(".")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of gradients in digits, layer by layer.")
    parser.add_argument("--recipe", type=Path, required=True, help="of a gpt in fp32")
    parser.add_argument("--tokens", type=Path, help="folder of what was prepared (default: from the recipe)")
    parser.add_argument("--checkpoint", type=Path, help="weights to begin from (default: the initial ones)")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    tokens = args.tokens or tokens_dir(recipe)
    exact = gradients(recipe, "fp32", tokens, args.checkpoint)
    layers = sum(name.endswith("attn.qkv.weight") for name in exact)
    rows = list(dict.fromkeys(group(name, layers) for name in exact))
    cells: dict[str, list[str]] = {row: [] for row in rows}
    for tier in TIERS:
        found = gradients(recipe, tier, tokens, args.checkpoint)
        for row in rows:
            names = [name for name in exact if group(name, layers) == row]
            error = sum(float((found[name] - exact[name]).square().sum()) for name in names)
            size = sum(float(exact[name].square().sum()) for name in names)
            cells[row].append(f"{(error / size) ** 0.5:.1e}")
    lines = [f"| gradient of | {' | '.join(TIERS)} |", "|---" * (len(TIERS) + 1) + "|"]
    write([*lines, *(f"| {row} | {' | '.join(each)} |" for row, each in cells.items())], args.out)


if __name__ == "__main__":
    torch.set_num_threads(2)
    exit_on_user_error(main)
