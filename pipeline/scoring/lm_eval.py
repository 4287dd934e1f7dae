"""Our likelihoods and greedy texts for lm-evaluation-harness, so that its tasks need no code of ours.

What it is given is exact: the fp32 losses of a row are those of the row alone, whatever it is batched with, and their sum is
math.fsum's. Texts become tokens as its own Hugging Face model makes them. Only greedy generation is offered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cuda_ops.errors import UserError
from pipeline.data.benchmarks import encode_pair
from pipeline.recipe import Samples
from pipeline.scoring.draw import draw
from pipeline.scoring.greedy import chosen
from pipeline.scoring.tails import Pair, tail_losses
from pipeline.scoring.wikitext import rolling

if TYPE_CHECKING:
    from pipeline.data.tokenizers import Tokenizer
    from pipeline.models.model import Generator

MAX_NEW = 256  # tokens of an answer where a task does not say: lm-evaluation-harness' own


class Exact:
    """A model with its tokenizer, which must have a token between texts."""

    def __init__(self, model: Generator, tokenizer: Tokenizer, batch: int) -> None:
        if tokenizer.separator is None:
            raise UserError("lm-evaluation-harness needs a token that begins a text; a char tokenizer has none")
        self.model, self.tokenizer, self.batch, self.prefix = model, tokenizer, batch, tokenizer.separator

    def pair(self, context: str, continuation: str) -> Pair:
        """Tokens of both; an empty context is the token between texts."""
        if not context:
            return [self.prefix], self.tokenizer.encode(continuation)
        head, tail = encode_pair(context, continuation, self.tokenizer)
        return head or [self.prefix], tail

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each continuation after its context: the log-likelihood in nats, and whether greedy decoding would say it."""
        pairs = [self.pair(*request) for request in requests]
        sums = [-math.fsum(losses) for losses in tail_losses(self.model, pairs, self.batch)]
        return list(zip(sums, chosen(self.model, pairs, self.batch), strict=True))

    def rolling(self, texts: Iterable[str]) -> list[float]:
        """The log-likelihood of each whole text, window by window."""
        found = []
        for text in texts:
            pairs = list(rolling(self.tokenizer.encode(text), self.prefix, self.model.config.context))
            found.append(-math.fsum(x for losses in tail_losses(self.model, pairs, self.batch) for x in losses))
        return found

    def generate(self, context: str, until: Sequence[str], most: int) -> str:
        """The greedy continuation, up to the first of `until`, which is not in it."""
        room = self.model.config.context - most
        if room < 1:
            raise UserError(f"an answer of {most} tokens leaves no room in the context of {self.model.config.context}")
        prompt = (self.tokenizer.encode(context) or [self.prefix])[-room:]
        (ids,) = draw(self.model, prompt, Samples(length=most, temperature=0.0), 0, 1, self.prefix)
        text = self.tokenizer.decode(ids)
        ends = [text.find(stop) for stop in until if stop and stop in text]
        return text[: min(ends)] if ends else text


def adapter(exact: Exact) -> Any:
    """The model as lm_eval.evaluator takes it."""
    try:
        from lm_eval.api.model import LM  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise UserError(
            f"lm-evaluation-harness is not here ({error}): uv pip install --target results/lm_eval --require-hashes "
            "-r requirements-lm-eval.lock, and PYTHONPATH=results/lm_eval"
        ) from None

    class Adapter(LM):  # type: ignore[misc,unused-ignore]
        def loglikelihood(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return exact.loglikelihood([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            return exact.rolling(request.args[0] for request in requests)

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            found = []
            for context, how in (request.args for request in requests):
                if how.get("do_sample") or how.get("temperature", 0.0) not in (0, 0.0):
                    raise UserError(f"generation {how}: only greedy decoding is offered here")
                until = how.get("until") or []
                most = int(how.get("max_gen_toks", MAX_NEW))
                found.append(exact.generate(context, [until] if isinstance(until, str) else until, most))
            return found

    return Adapter()
