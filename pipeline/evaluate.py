"""Validation loss over the whole split, and the multiple-choice questions.

    python -m pipeline.evaluate --recipe config/recipes/fables.yaml --checkpoint results/runs/fables/step_001000.safetensors
    step 1000: 0.2503 nats/token, 0.1031 bits/byte, acc 1.000, acc_norm 1.000

Every token of the split but the first is scored exactly once. Where the recipe's order is `documents`, a window begins
where a document begins, and what a window cuts off is scored in the next one, which begins with the document that was
cut. The fp32 losses of the tokens are added exactly (math.fsum), so no batch size, thread or order can change the sum.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuda_ops.errors import UserError, exit_on_user_error
from pipeline.base.files import write_json
from pipeline.data.shards import read_shard
from pipeline.machine.devices import device_errors
from pipeline.recipe import Recipe, load_recipe
from pipeline.recipe.paths import run_dir, tokens_dir
from pipeline.records.receipt import receipt

if TYPE_CHECKING:
    from pipeline.models.gpt import Gpt


@dataclass(frozen=True)
class Window:
    """Tokens begin .. begin + length of the split as input and target; the first `skip` targets are scored elsewhere."""

    begin: int
    length: int
    skip: int


def windows(total: int, context: int, starts: NDArray[np.int64] | None) -> list[Window]:
    """Windows whose scored targets are 1 .. total - 1, each once."""
    found: list[Window] = []
    scored = 1  # the next target to score
    while scored < total:
        begin = scored - 1
        if starts is not None:
            at = int(starts[np.searchsorted(starts, begin, side="right") - 1])
            # From the start of the document, unless it is too long for the window to reach the target.
            if scored - at < context:
                begin = at
        length = min(context, total - 1 - begin)
        found.append(Window(begin, length, scored - 1 - begin))
        scored = begin + length + 1
    return found


def batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def losses_of(model: Gpt, rows: list[list[int]]) -> list[list[float]]:
    """Loss of each token after the first of each row; rows are padded at the end, which causality hides."""
    longest = max(len(row) for row in rows) - 1
    padded = np.zeros((len(rows), longest + 1), dtype=np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    tokens = torch.from_numpy(padded).to(model.memory.device)
    losses = model.losses(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).cpu()
    return [losses[i, : len(row) - 1].tolist() for i, row in enumerate(rows)]


def validation(
    model: Gpt, recipe: Recipe, tokens: NDArray[np.uint16], starts: NDArray[np.int64], batch: int
) -> dict[str, Any]:
    """Summed and mean loss of the split."""
    from tqdm import tqdm

    aligned = starts if recipe.bits.data.order == "documents" else None
    parts: list[float] = []
    every = windows(len(tokens), recipe.bits.model.context, aligned)
    groups = list(batched(every, batch))
    for group in tqdm(groups, desc="validation", unit="batch", disable=None):
        rows = [tokens[w.begin : w.begin + w.length + 1].tolist() for w in group]
        for window, losses in zip(group, losses_of(model, rows), strict=True):
            parts += losses[window.skip :]
    if len(parts) != len(tokens) - 1:
        raise AssertionError(f"scored {len(parts)} of {len(tokens) - 1} tokens")
    total = math.fsum(parts)
    return {"tokens": len(parts), "nats": total.hex(), "nats_per_token": total / len(parts)}


def choices(model: Gpt, questions: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """HellaSwag's scores: acc picks the ending of least loss, acc_norm of least loss per byte; first on ties.

    A question longer than the model's context loses tokens at its beginning; an ending must fit whole.
    """
    longest = model.config.context + 1
    rows = [(question["context"], ending) for question in questions for ending in question["endings"]]
    nats: list[float] = []
    for group in batched(rows, batch):
        for _, ending in group:
            if len(ending) >= longest:
                raise UserError(f"an ending of {len(ending)} tokens does not fit the context of {longest - 1}")
        texts = [(context + ending)[-longest:] for context, ending in group]
        for (_, ending), losses in zip(group, losses_of(model, texts), strict=True):
            nats.append(math.fsum(losses[-len(ending) :]))
    scores = [nats[i : i + 4] for i in range(0, len(nats), 4)]
    right = right_norm = 0
    for question, score in zip(questions, scores, strict=True):
        per_byte = [n / size for n, size in zip(score, question["bytes"], strict=True)]
        right += score.index(min(score)) == question["label"]
        right_norm += per_byte.index(min(per_byte)) == question["label"]
    count = len(questions)
    return {
        "questions": count,
        "acc": right / count,
        "acc_norm": right_norm / count,
        "nats": [[n.hex() for n in score] for score in scores],
    }


def evaluate(recipe: Recipe, checkpoint: Path, tokens_folder: Path, batch: int, device: str = "cpu") -> dict[str, Any]:
    """The content of eval_<n>.json."""
    from pipeline.base.checkpoint import load
    from pipeline.scoring.model import load_model

    about = json.loads((tokens_folder / "tokens.json").read_text(encoding="utf-8"))
    tokens = read_shard(tokens_folder / "val_000000.bin", recipe.bits.model.vocab_size)
    state = load(checkpoint)
    model = load_model(recipe, state, checkpoint, batch, device=device)
    loss = validation(model, recipe, tokens, np.load(tokens_folder / "val_documents.npy"), batch)
    per_byte = float.fromhex(loss["nats"]) / about["validation"]["bytes"]
    result: dict[str, Any] = {"step": state.step, "validation": loss | {"nats_per_byte": per_byte}}
    if recipe.artifacts.wants("choices") and state.step == recipe.bits.steps:
        questions = json.loads((tokens_folder / "choices.json").read_text(encoding="utf-8"))
        result["choices"] = choices(model, questions, batch)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Validation loss over the whole split, and the questions.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="folder of the shards (default: from the recipe)")
    parser.add_argument("--out", type=Path, help="file to write (default: eval_<step>.json of the run)")
    parser.add_argument("--batch-size", type=int, default=8, help="windows together; never changes a bit")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; never changes a bit")
    parser.add_argument("--threads", type=int, default=1, help="never changes a bit")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    step = args.checkpoint.name.removeprefix("step_").split(".")[0]
    out = args.out or run_dir(recipe) / f"eval_{step}.json"
    with (
        receipt(out.parent / "receipts" / f"evaluate_{step}.json", f"evaluate {step}"),
        device_errors(f"evaluating {args.checkpoint}"),
    ):
        from cuda_ops import runtime

        runtime.set_threads(args.threads)
        result = evaluate(recipe, args.checkpoint, args.tokens or tokens_dir(recipe), args.batch_size, args.device)
        write_json(out, result)
    loss = result["validation"]
    line = f"step {result['step']}: {loss['nats_per_token']:.4f} nats/token, {loss['nats_per_byte'] / math.log(2):.4f} bits/byte"
    if "choices" in result:
        line += f", acc {result['choices']['acc']:.3f}, acc_norm {result['choices']['acc_norm']:.3f}"
    print(line)
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
