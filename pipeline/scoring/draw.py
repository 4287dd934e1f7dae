"""Drawing texts from a model.

Token number n of draw d of prompt p is decided by uniform number (p * draws + d) * length + n of the stream SAMPLE: a pure
function, so the draws decoded together cannot change a bit. Decoding uses a KV cache, whose bits are those of the full
forward pass; where the context is full, its second half is read again as a new beginning. <|endoftext|> ends a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.base.philox import Stream
from pipeline.data.prompts import check_prompts
from pipeline.data.tokenizers import Tokenizer
from pipeline.recipe import Recipe, Samples

if TYPE_CHECKING:
    from pipeline.models.model import Generator


def draw(
    model: Generator, prompt: list[int], samples: Samples, first: int, draws: int, separator: int | None
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


def draw_all(
    recipe: Recipe, samples: Samples, tokenizer: Tokenizer, model: Generator, batch: int
) -> list[dict[str, Any]]:
    """Every prompt's draws, `batch` at a time: the content of samples.json."""
    results: list[dict[str, Any]] = []
    for p, prompt in enumerate(check_prompts(recipe, tokenizer)):
        for d in range(0, samples.draws, batch):
            count = min(batch, samples.draws - d)
            for ids in draw(model, prompt, samples, p * samples.draws + d, count, tokenizer.separator):
                results.append({"prompt": samples.prompts[p], "tokens": ids, "text": tokenizer.decode(ids)})
    return results
