"""Which tokens each sample of each step sees: a pure function of the recipe and the shards.

Sample g of step s (steps count from 1) is number (s - 1) * sequences + g of the run, whatever the rank that reads it. Orders:
`sequential` walks the windows of T tokens, `permutation` visits each once per epoch in an order sorted by Philox
words, `random` draws independent offsets, `documents` is a permutation of windows that begin where documents begin.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuda_ops.errors import UserError
from pipeline.base.philox import Philox, Stream
from pipeline.data.shards import read_shard
from pipeline.recipe import Recipe
from pipeline.recipe.paths import train_shards


class Batches:
    """Token windows of the training split of one recipe."""

    def __init__(self, recipe: Recipe, tokens_dir: Path) -> None:
        bits = recipe.bits
        self.context = bits.model.context
        self.sequences = bits.batch.sequences
        self.order = bits.data.order
        self._check_vocabulary(tokens_dir, bits.model.vocab_size)
        shards = [read_shard(tokens_dir / name, bits.model.vocab_size) for name in train_shards(recipe)]
        self.tokens = shards[0] if len(shards) == 1 else np.concatenate(shards)
        self._philox = Philox(bits.seed, Stream.ORDER)
        last = len(self.tokens) - self.context - 1  # the last offset at which a window and its target fit
        if last < 0:
            raise UserError(
                f"{tokens_dir}: the training split has {len(self.tokens)} tokens, a window needs "
                f"{self.context + 1}: give more text or lower bits.model.context"
            )
        if self.order == "documents":
            starts = np.load(tokens_dir / "train_documents.npy")
            self.windows: NDArray[np.int64] = starts[starts <= last]
            if len(self.windows) == 0:
                raise UserError(f"{tokens_dir}: no document starts {self.context + 1} tokens before the end")
        else:
            self.windows = np.arange(0, last + 1, self.context, dtype=np.int64)
        self._last = last
        self._epoch = -1
        self._permutation = np.zeros(0, dtype=np.int64)

    @staticmethod
    def _check_vocabulary(tokens_dir: Path, vocab_size: int) -> None:
        path = tokens_dir / "tokens.json"
        if not path.exists():
            raise UserError(f"{path}: no such file; run python -m pipeline.prepare_text")
        found = json.loads(path.read_text(encoding="utf-8"))["vocab_size"]
        if found != vocab_size:
            raise UserError(f"bits.model.vocab_size is {vocab_size}, the tokens in {tokens_dir} have {found}")

    def offset(self, sample: int) -> int:
        """Where the window of a sample of the run begins."""
        if self.order == "random":
            return self._philox.below(self._last + 1, sample)
        epoch, position = divmod(sample, len(self.windows))
        if self.order == "sequential":
            return int(self.windows[position])
        if epoch != self._epoch:
            words = self._philox.words(2 * epoch * len(self.windows), 2 * len(self.windows))
            keys = words[0::2] | words[1::2] << np.uint64(32)
            self._permutation = np.argsort(keys, kind="stable")  # ties, if ever, by index
            self._epoch = epoch
        return int(self.windows[self._permutation[position]])

    def get(self, step: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets [count, T] int32 of samples first .. first + count - 1 of a step (from 1)."""
        begin = (step - 1) * self.sequences + first
        rows = [
            np.asarray(self.tokens[offset : offset + self.context + 1], dtype=np.int32)
            for offset in (self.offset(sample) for sample in range(begin, begin + count))
        ]
        windows = torch.from_numpy(np.stack(rows))
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
