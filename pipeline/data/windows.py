"""Which tokens each sample of each step sees: a pure function of the recipe and the shards.

Sample g of step s (steps count from 1) is number (s - 1) * sequences + g of the run, whatever the rank that reads it. Orders:
`sequential` walks the windows of T tokens, `permutation` visits each once per epoch in an order sorted by Philox
words, `random` draws independent offsets, `documents` is a permutation of windows that begin where documents begin, `llmc` is
llm.c's: lane l of a step reads part l of a batch of consecutive windows that its own shuffle chooses within a shard.
Shards are read by offset where a window lies; opening them reads none through.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.base.philox import Philox, Stream
from pipeline.data.order import Order, ShardOrder
from pipeline.data.prepared import Prepared
from pipeline.data.shards import Shards
from pipeline.recipe import Gpt, Recipe, TextData
from pipeline.recipe.paths import TRAIN_STARTS, train_shards

if TYPE_CHECKING:
    from pipeline.data.contents import Where


class TextSamples:
    """Token windows of the training split of one recipe."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        bits = recipe.bits
        assert isinstance(bits.data, TextData)
        assert isinstance(bits.model, Gpt)
        self.folder = folder
        self.context, self.sequences, self.order = bits.model.context, bits.batch.sequences, bits.data.order
        prepared = Prepared(folder)
        if prepared.text["vocab_size"] != bits.model.vocab_size:
            raise UserError(
                f"bits.model.vocab_size is {bits.model.vocab_size}, the tokens in {folder} have "
                f"{prepared.text['vocab_size']}"
            )
        self.tokens = Shards([prepared.file(name) for name in train_shards(recipe)])
        for name in train_shards(recipe):  # recorded when it was written: no shard is read through here
            if (largest := prepared.text["largest"][name]) >= bits.model.vocab_size:
                raise UserError(
                    f"{folder / name}: token {largest} is outside the vocabulary of {bits.model.vocab_size}; "
                    f"{prepared.remedy}"
                )
        self._last = len(self.tokens) - self.context - 1  # the last offset at which a window and its target fit
        if self._last < 0:
            raise UserError(
                f"{folder}: the training split has {len(self.tokens)} tokens, a window needs "
                f"{self.context + 1}: give more text or lower bits.model.context"
            )
        self._starts: NDArray[np.int64] | None = None
        count = self._last // self.context + 1
        self._lanes: list[ShardOrder] = []
        if self.order == "llmc":
            self._lanes = self._shuffled_shards(bits.batch.lanes, bits.seed)
            count = self._lanes[0].per_epoch * self.sequences
        if self.order == "documents":
            self._starts = np.load(prepared.file(TRAIN_STARTS), mmap_mode="r")
            count = int(np.searchsorted(self._starts, self._last, side="right"))
            if count == 0:
                raise UserError(f"{folder}: no document starts {self.context + 1} tokens before the end")
        self._philox = Philox(bits.seed, Stream.ORDER)
        self._order = Order(count, self.order != "sequential", bits.seed)

    def _shuffled_shards(self, lanes: int, seed: int) -> list[ShardOrder]:
        """llm.c's order of every lane: the batches that fit in each shard with their last target."""
        batch = self.sequences * self.context
        counts = [(length - 1) // batch for length in self.tokens.lengths]
        if min(counts) < 1:
            raise UserError(
                f"{self.folder}: order llmc: a shard of {min(self.tokens.lengths)} tokens holds no batch of {self.sequences} x "
                f"{self.context} tokens and a target: lower bits.batch.sequences, or use order permutation"
            )
        return [ShardOrder(counts, (seed + lane) % 2**32) for lane in range(lanes)]

    @property
    def windows(self) -> int:
        """How many windows an epoch has."""
        return self._order.count

    def offset(self, sample: int) -> int:
        """Where in the training split the window of a sample of the run begins."""
        if self.order == "random":
            return self._philox.below(self._last + 1, sample)
        if self._lanes:
            step, row = divmod(sample, self.sequences)
            shard, batch = self._lanes[row * len(self._lanes) // self.sequences].batch(step)
            return self.tokens.begin(shard) + (batch * self.sequences + row) * self.context
        item = self._order.item(sample)
        return item * self.context if self._starts is None else int(self._starts[item])

    def _rows(self, step: int, first: int, count: int) -> NDArray[np.int32]:
        """Windows with their last target [count, T + 1]."""
        begin = (step - 1) * self.sequences + first
        rows = np.empty((count, self.context + 1), dtype=np.int32)
        for row, sample in zip(rows, range(begin, begin + count), strict=True):
            row[:] = self.tokens.read(self.offset(sample), self.context + 1)
        return rows

    def get(self, step: int, first: int, count: int) -> dict[str, NDArray[Any]]:
        """tokens and targets, int32 [count, T], of samples first .. first + count - 1 of a step (from 1)."""
        rows = self._rows(step, first, count)
        return {"tokens": np.ascontiguousarray(rows[:, :-1]), "targets": np.ascontiguousarray(rows[:, 1:])}

    def about(self, step: int, index: int) -> Where:
        """Where a sample of a step comes from, for people: offset in the training split, the window's token ids."""
        offset = self.offset((step - 1) * self.sequences + index)
        return {"offset": offset, "tokens": self._rows(step, index, 1)[0, :-1].tolist()}
