"""Drawing texts from a model.

Token number n of draw d of prompt p is decided by uniform number (p * draws + d) * length + n of the stream SAMPLE: a pure
function, so the draws decoded together cannot change a bit. Decoding uses a KV cache, whose bits are those of the full
forward pass; where the context is full, its second half is read again as a new beginning. <|endoftext|> ends a sample.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.base.philox import Stream
from pipeline.data.tokenizers import Tokenizer
from pipeline.recipe import Samples

if TYPE_CHECKING:
    from pipeline.models.model import Generator
    from pipeline.records.contents import Sample


def drawing(model: Generator, prompt: list[int], samples: Samples, first: int, draws: int) -> Iterator[list[int]]:
    """One token of each of `draws` draws of one prompt at a time; the first draw is number `first` of the run."""
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
        tokens: list[int] = chosen.tolist()
        for row, token in zip(rows, tokens, strict=True):
            row.append(token)
        yield tokens
        pending = chosen.view(-1, 1).clone()


def draw(
    model: Generator, prompt: list[int], samples: Samples, first: int, draws: int, separator: int | None
) -> list[list[int]]:
    """New tokens of `draws` draws of one prompt, decoded together."""
    rows = [list(row) for row in zip(*drawing(model, prompt, samples, first, draws), strict=True)]
    return [row[: row.index(separator)] if separator in row else row for row in rows]


def _tail(rows: list[list[int]], count: int) -> Tensor:
    return torch.tensor([row[-count:] for row in rows], dtype=torch.int32)


def draw_all(
    samples: Samples, prompts: list[list[int]], tokenizer: Tokenizer, model: Generator, batch: int
) -> list[Sample]:
    """Every prompt's draws, `batch` at a time: the content of samples.json. prompts: the tokens of each."""
    results: list[Sample] = []
    for p, prompt in enumerate(prompts):
        for d in range(0, samples.draws, batch):
            count = min(batch, samples.draws - d)
            for ids in draw(model, prompt, samples, p * samples.draws + d, count, tokenizer.separator):
                results.append(result(samples.prompts[p], ids, tokenizer))
    return results


def result(prompt: str, ids: list[int], tokenizer: Tokenizer) -> Sample:
    """An element of samples.json."""
    return {"prompt": prompt, "tokens": ids, "text": tokenizer.decode(ids)}


def stream(
    samples: Samples, prompts: list[list[int]], tokenizer: Tokenizer, model: Generator, show: Callable[[str, int], None]
) -> list[Sample]:
    """As draw_all, a draw at a time: show(text, number of the draw) gets each text in pieces, as its tokens come.

    The bytes of half a character wait for the other half, so that the pieces together are the text.
    """
    results: list[Sample] = []
    for p, prompt in enumerate(prompts):
        for number in range(p * samples.draws, (p + 1) * samples.draws):
            decoder = getincrementaldecoder("utf-8")(errors="replace")
            ids: list[int] = []
            for (token,) in drawing(model, prompt, samples, number, 1):
                if token == tokenizer.separator:
                    break
                ids.append(token)
                show(decoder.decode(tokenizer.bytes_of(token)), number)
            show(decoder.decode(b"", final=True), number)
            results.append(result(samples.prompts[p], ids, tokenizer))
    return results
