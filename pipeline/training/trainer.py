"""One training step, and the state it acts on.

A step: each own lane forward and backward, lanes added by a tree, all-to-all (while the last lane's backward pass
runs) so that each rank holds its shard of every rank's sum, the tree over ranks, the norm over fixed chunks, the
optimizer on the shard (ZeRO-1: its state exists only there), parameters gathered. Who computes a lane, in which
micro-batches, cannot be seen in the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cuda_ops import ops
from cuda_ops.errors import UserError
from pipeline.base.chain import START, Line
from pipeline.base.checkpoint import Checkpoint, Stored, save
from pipeline.data.samples import samples_of
from pipeline.machine.devices import name_of
from pipeline.machine.execution import Execution
from pipeline.machine.graphs import CudaGraph, Replayed
from pipeline.machine.memory import Memory, OutOfMemory, gib
from pipeline.machine.ranks import Ranks
from pipeline.models.model import Inputs, Observer, model_of
from pipeline.recipe import Recipe, recipe_id
from pipeline.training.exchange import Exchange, shards_of
from pipeline.training.feed import Feed
from pipeline.training.initial import initialise
from pipeline.training.lanes import LaneCounter, lanes_of
from pipeline.training.optimizers import optimizer_of
from pipeline.training.outliers import Skipping
from pipeline.training.schedule import learning_rate
from pipeline.training.state import State
from pipeline.training.stored import about_of, checked, specs_of, state_prefixes


class NotFinite(Exception):
    """Loss or gradient became NaN or infinite; the message names step, lane and tensor."""


def fp32(x: float) -> float:
    """The fp32 value nearest to x."""
    return float(np.float32(x))


class Trainer:
    """Model, optimizer state and buffers of one rank; everything is allocated here, on the rank's device.

    data: the folder of the recipe's samples; None: there are none, the buffers are only counted.
    """

    def __init__(
        self, recipe: Recipe, execution: Execution, ranks: Ranks, data: Path | None, memory: Memory | None = None
    ) -> None:
        bits = recipe.bits
        self.recipe, self.ranks = recipe, ranks
        memory = memory or Memory(ranks.device)
        if data is not None:
            self.samples = samples_of(recipe, data)
        self.lane_samples = bits.batch.sequences // bits.batch.lanes
        self.micro_batch = min(execution.micro_batch, self.lane_samples)
        self.own_lanes = lanes_of(ranks.rank, ranks.size, bits.batch.lanes)
        kind = model_of(bits.model)
        self.model = kind(
            bits.model,
            self.micro_batch,
            lane_samples=self.lane_samples,
            recompute=execution.recompute,
            flat_multiple=ops.NORM_CHUNK * bits.batch.lanes,
            memory=memory,
            numerics=bits.numerics,
        )
        flat = self.model.flat
        self.shards = shards_of(flat.size, ranks.size, ops.NORM_CHUNK)
        self.pieces = self.shards.pieces(ranks.rank)  # of the flat space: this rank's shard
        self.counter = LaneCounter(len(self.own_lanes), self.model.new_flat)
        self.exchange = Exchange(ranks, self.shards, memory) if ranks.size > 1 else None
        self.optimizer = optimizer_of(bits.optimizer)(bits.optimizer, flat, self.pieces, memory)
        chunks = self.shards.size // ops.NORM_CHUNK
        self.partials, self.all_partials = memory.zeros(chunks), memory.zeros(ranks.size, chunks)
        self.ordered = memory.zeros(ranks.size * chunks) if ranks.size > 1 else self.all_partials.view(-1)
        self.lane_losses = memory.zeros(len(self.own_lanes))
        self.all_losses = memory.zeros(bits.batch.lanes)
        self.totals = memory.zeros(2)  # of the losses, of the gradient's squares
        # Loss and norm as two fp32, and the fingerprint of each piece.
        self.results = memory.zeros(1 + len(self.pieces), dtype=torch.int64)
        self.loss_and_norm = self.results[:1].view(torch.float32)
        inputs = kind.inputs(bits.model, self.lane_samples)
        self.feed = Feed(self._inputs, inputs, len(self.own_lanes), memory)
        graph = execution.graph and memory.device.type == "cuda" and ranks.size == 1
        self.descend = Replayed(self._descend, CudaGraph if graph else None)
        self.update = Replayed(self._update, CudaGraph if graph else None)
        self.signals = torch.zeros(ranks.size, 2, dtype=torch.int64)
        self.loss_scale = fp32(1.0 / bits.units)
        self.skipping = Skipping(bits.skip)
        self.observe: Observer | None = None  # one rank only: sees every tensor of a step in the order of computation
        self.step = 0
        self.link = ""

    def _inputs(self, step: int, lane: int) -> Inputs:
        """What a lane of a step reads, on the host."""
        samples = self.samples.get(step, lane * self.lane_samples, self.lane_samples)
        return self.model.lane(self.recipe.bits.model, samples)

    # ------------------------------------------------------------------ a step

    def _lane(self, i: int, grads: Tensor, loss: Tensor, done: Callable[[str], None] | None = None) -> None:
        """Forward and backward of own lane i: one chain over its samples, in whole samples at a time."""
        lane, model, prefix = self.feed.lanes[i], self.model, f"lane.{self.own_lanes[i]}/"
        see = self.observe
        model.observe = (lambda name, tensor: see(prefix + name, tensor)) if see else None
        model.begin_lane(lane)
        for first in range(0, self.lane_samples, self.micro_batch):
            part = slice(first, min(first + self.micro_batch, self.lane_samples))
            final = part.stop == self.lane_samples
            losses = model.accumulate(lane, part, grads, self.loss_scale, done if final else None)
            ops.chain_sum(loss, losses)
        model.finish_lane(lane, grads)
        if see:
            views = model.flat.views(grads)
            for name in reversed(views):  # the order in which the backward pass completes them
                see(f"{prefix}gradient/{name}", views[name])

    def one_lane(self, lane: int) -> float:
        """A lane of the next step alone, for the observer; returns the sum of its losses. Changes no state."""
        self.feed.load(self.step + 1, self.own_lanes)
        total = self.totals[:1].zero_()
        self._lane(self.own_lanes.index(lane), self.counter.fresh(), total)
        return total.item()

    def _sum_over_lanes(self) -> Tensor:
        """This rank's shard of the gradient of the whole batch, a buffer; fills lane_losses."""
        flat, counter, exchange = self.model.flat, self.counter, self.exchange
        self.lane_losses.zero_()
        final = len(self.own_lanes) - 1
        for i in range(final):
            grads = counter.fresh()
            self._lane(i, grads, self.lane_losses[i : i + 1])
            counter.push(grads, 0, flat.size)
        grads = counter.fresh()
        if exchange is None:
            self._lane(final, grads, self.lane_losses[final:])
            return counter.push(grads, 0, flat.size)
        total = grads

        def done(name: str) -> None:
            """Send what the last lane has completed, while the rest of its backward pass runs."""
            nonlocal total
            pending = exchange.pending(flat.offsets[name])
            if pending:
                total = counter.push(grads, *pending)
                exchange.start(total, *pending)

        self._lane(final, grads, self.lane_losses[final:], done)
        done(next(iter(flat.offsets)))
        return exchange.finish(total[: self.shards.size])

    def _descend(self) -> Tensor:
        """From the feed to the shard's gradient, loss, norm and the optimizer's factor, without waiting for the
        device."""
        gradient = self._sum_over_lanes()
        self.ranks.gather(self.all_losses, self.lane_losses)
        ops.tree_sum(self.totals[:1], self.all_losses)
        ops.norm_partials(self.partials, gradient)
        self.ranks.gather(self.all_partials, self.partials)
        if self.exchange:
            self.shards.in_order(self.ordered, self.all_partials)
        ops.tree_sum(self.totals[1:], self.ordered)
        self.optimizer.scale(self.loss_and_norm, self.totals, self.loss_scale)
        return gradient

    def _update(self, gradient: Tensor) -> None:
        """The optimizer on the shard, everyone's parameters, without waiting. A factor that is NaN updates nothing."""
        self.optimizer.update(self.model.parameters, gradient)
        if self.exchange:
            self.exchange.gather(self.model.parameters)

    def train_step(self, signal: int = 0) -> tuple[Line, int]:
        """One step; returns its chain line (not yet linked) and the union of every rank's signal bits."""
        bits, step = self.recipe.bits, self.step + 1
        lr = learning_rate(bits.schedule, step, bits.steps)
        self.feed.load(step, self.own_lanes)
        self.optimizer.load(step, lr)
        gradient = self.descend()
        if self.observe:
            self._see_flat("gradient/", gradient)
            self.observe("loss", self.loss_and_norm[:1])
            self.observe("norm", self.loss_and_norm[1:])
        if not (self.skipping and self._skips()):
            self.update(gradient)
        for i, piece in enumerate(self.pieces, 1):
            own = self.model.parameters[piece.begin : min(piece.end, self.model.flat.used)]
            if own.numel():
                ops.fingerprint_into(self.results[i : i + 1], own, piece.begin)
        if step < bits.steps:
            self.feed.prepare(step + 1, self.own_lanes)  # while the device works
        results = self.results.cpu()  # the only wait of a step, unless the recipe skips outliers
        loss, norm = results[:1].view(torch.float32).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            words = self._diagnose(step, loss, norm)  # the update has left everything as it was
            self._agree(0, 0)  # that every rank has looked: the first that ends stops the others
            raise NotFinite(words)
        if self.observe:
            flats = self.flats()
            for prefix in [*state_prefixes(bits.optimizer), ""]:
                self._see_flat(f"after/{prefix}", flats[prefix])
        self.step = step
        fingerprint, signals = self._agree(int(results[1:].sum()), signal)  # a sum modulo 2^64
        return Line(step, loss, lr, norm, fingerprint), signals

    def flats(self) -> dict[str, Tensor]:
        """Parameters and the shard of each optimizer state, by what stands before a parameter's name in a
        checkpoint."""
        return {"": self.model.parameters} | dict(
            zip(state_prefixes(self.recipe.bits.optimizer), self.optimizer.state.values(), strict=True)
        )

    def _see_flat(self, prefix: str, flat: Tensor) -> None:
        for name, view in self.model.flat.views(flat).items():
            if self.observe:
                self.observe(prefix + name, view)

    def _skips(self) -> bool:
        """Whether the recipe asks that this step, an outlier, changes no weight; the same at every rank."""
        loss, norm = self.loss_and_norm.tolist()
        return self.skipping.skips(loss=loss, norm=norm)

    def _agree(self, fingerprint: int, signal: int) -> tuple[int, int]:
        """Fingerprint of all parameters from those of the shards, and the union of the signals."""
        self.ranks.gather(self.signals, torch.tensor([fingerprint, signal], dtype=torch.int64))
        total = sum(int(value) for value in self.signals[:, 0]) % 2**64
        union = 0
        for value in self.signals[:, 1]:
            union |= int(value)
        return total, union

    def _diagnose(self, step: int, loss: float, norm: float) -> str:
        """Run the lanes of a bad step again, one at a time, and name what is not finite first."""
        where = f"step {step}: loss {loss}, gradient norm {norm}"
        for name, view in self.model.weights.items():
            if ops.first_nonfinite(view) >= 0:
                return f"{where}; the weights {name} held a NaN or Inf at element {ops.first_nonfinite(view)} already"
        for i, lane in enumerate(self.own_lanes):
            grads, total = self.counter.fresh(), self.totals[:1].zero_()
            self._lane(i, grads, total)
            views = self.model.flat.views(grads)
            for name in reversed(views):  # backward order: the last layers are computed first
                at = ops.first_nonfinite(views[name])
                if at >= 0:
                    return f"{where}; first in lane {lane}: gradient of {name}, element {at} (loss {total.item()})"
        others = "the sum over lanes overflowed or another rank's is not"
        return f"{where}; every lane of rank {self.ranks.rank} is finite: {others}"

    # ------------------------------------------------------------------ state

    def initialise(self, file: Path | None = None) -> None:
        """The state before the first step, with the link that a chain begins from; file: see initial.initialise."""
        self.link = START
        under_way = initialise(self.model, self.recipe, file)
        if under_way is not None:
            self._state().restore(under_way)
        self.step = self.recipe.bits.start

    def _state(self) -> State:
        return State(specs_of(self.recipe), self.model, self.optimizer, self.skipping, self.ranks, self.shards)

    def checkpoint(self) -> Checkpoint:
        """The state as it is, not a copy; every rank must read its tensors, in their order: see State."""
        state = self._state()
        return Checkpoint(self.step, recipe_id(self.recipe), self.link, state, about_of(self.recipe), state.specs)

    def save(self, path: Path) -> str:
        """Write a checkpoint, at rank 0; every rank must call it. Returns the file's SHA-256, "" at the others."""
        checkpoint = self.checkpoint()
        if self.ranks.first:
            return save(path, checkpoint)
        for name in checkpoint.tensors:
            checkpoint.tensors[name]  # gives its shard
        return ""

    def restore(self, stored: Stored) -> None:
        """Take over a checkpoint of this recipe, on any number of ranks."""
        self._state().restore(checked(stored, self.recipe, stored.tensors.path).tensors)
        self.step, self.link = stored.step, stored.link


def bytes_needed(recipe: Recipe, execution: Execution, ranks: int, data: Path | None = None) -> int:
    """Bytes of the buffers of one rank of `ranks`, without allocating them."""

    class Place(Ranks):
        def __init__(self) -> None:
            self.rank, self.size, self.device = 0, ranks, torch.device("meta")

    memory = Memory("meta", name_of(execution.device, 0))
    Trainer(recipe, execution, Place(), data, memory)
    return memory.bytes


def new_trainer(recipe: Recipe, execution: Execution, ranks: Ranks, data: Path) -> Trainer:
    """A Trainer; where memory is too small, a UserError that says how much is needed and what would lower it."""
    try:
        return Trainer(recipe, execution, ranks, data)
    except OutOfMemory as error:
        reason = str(error)
    needed = bytes_needed(recipe, execution, ranks.size, data)
    ways = {"--micro-batch 1": (replace(execution, micro_batch=1), ranks.size)}
    if not execution.recompute:
        ways["--recompute 1"] = (replace(execution, recompute=True), ranks.size)
    ways["--micro-batch 1 --recompute 1"] = (replace(execution, micro_batch=1, recompute=True), ranks.size)
    if recipe.bits.batch.lanes % (2 * ranks.size) == 0:
        ways[f"--ranks {2 * ranks.size}, each"] = (execution, 2 * ranks.size)
    sizes = {flag: bytes_needed(recipe, way, size, data) for flag, (way, size) in ways.items()}
    lower = [f"{flag} {gib(size)}" for flag, size in sizes.items() if size < needed]
    remedy = "would need: " + "; ".join(lower) if lower else "no setting lowers it: take a larger device"
    raise UserError(f"out of memory: the buffers of a rank need {gib(needed)} ({reason}); {remedy}")
