"""One training step, and the state it acts on.

A step: each own lane forward and backward, lanes added by a tree, all-to-all (while the last lane's backward pass runs) so
that each rank holds its shard of every rank's sum, the tree over ranks, the norm over fixed chunks, AdamW on the shard
(ZeRO-1: moments exist only there), parameters gathered. Who computes a lane, in which micro-batches, cannot be seen in the result.
"""

from __future__ import annotations

import itertools
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
from pipeline.base.checkpoint import Checkpoint
from pipeline.data.windows import Batches
from pipeline.machine.devices import name_of
from pipeline.machine.execution import Execution
from pipeline.machine.graphs import Captured, CudaGraph
from pipeline.machine.memory import Memory, OutOfMemory, gib
from pipeline.machine.ranks import Ranks
from pipeline.models.gpt import Gpt, Observer
from pipeline.recipe import Recipe, recipe_id
from pipeline.training.exchange import Exchange
from pipeline.training.feed import Feed
from pipeline.training.lanes import LaneCounter, lanes_of
from pipeline.training.outliers import Outliers
from pipeline.training.schedule import bias_correction, learning_rate


class NotFinite(Exception):
    """Loss or gradient became NaN or infinite; the message names step, lane and tensor."""


def fp32(x: float) -> float:
    """The fp32 value nearest to x."""
    return float(np.float32(x))


class Trainer:
    """Model, optimizer state and buffers of one rank; everything is allocated here, on the rank's device."""

    def __init__(
        self, recipe: Recipe, execution: Execution, ranks: Ranks, tokens_dir: Path, memory: Memory | None = None
    ) -> None:
        bits = recipe.bits
        self.recipe, self.ranks = recipe, ranks
        memory = memory or Memory(ranks.device)
        self.batches = Batches(recipe, tokens_dir)
        self.lane_sequences = bits.batch.sequences // bits.batch.lanes
        self.micro_batch = min(execution.micro_batch, self.lane_sequences)
        self.own_lanes = lanes_of(ranks.rank, ranks.size, bits.batch.lanes)
        self.model = Gpt(
            bits.model,
            self.micro_batch,
            lane_sequences=self.lane_sequences,
            recompute=execution.recompute,
            flat_multiple=ops.NORM_CHUNK * bits.batch.lanes,
            memory=memory,
        )
        self.offsets = dict(
            zip(
                self.model.shapes,
                itertools.accumulate(map(math.prod, self.model.shapes.values()), initial=0),
                strict=False,
            )
        )
        size = self.model.flat_size // ranks.size
        self.first = ranks.rank * size  # of this rank's shard in the flat space
        self.counter = LaneCounter(len(self.own_lanes), self.model.new_flat)
        self.exchange = Exchange(ranks, size, memory) if ranks.size > 1 else None
        self.m, self.v = memory.zeros(size), memory.zeros(size)
        chunks = size // ops.NORM_CHUNK
        self.partials, self.all_partials = memory.zeros(chunks), memory.zeros(ranks.size * chunks)
        self.lane_losses = memory.zeros(len(self.own_lanes))
        self.all_losses = memory.zeros(bits.batch.lanes)
        self.totals = memory.zeros(2)  # of the losses, of the gradient's squares
        self.results = memory.zeros(2, dtype=torch.int64)  # loss and norm as two fp32, the shard's fingerprint
        self.report = self.results[:1].view(torch.float32)
        self.feed = Feed(self.batches, len(self.own_lanes), self.lane_sequences, self.model.embedding_rows, memory)
        graph = execution.graph and memory.device.type == "cuda" and ranks.size == 1
        self.gradient = self.m  # until the first step
        self.descend = Captured(self._descend, CudaGraph if graph else None)
        self.update = Captured(self._update, CudaGraph if graph else None)
        self.signals = torch.zeros(ranks.size, 2, dtype=torch.int64)
        self.loss_scale = fp32(1.0 / (bits.batch.sequences * bits.model.context))
        self.ranges = self._decay_ranges(size)
        self.outliers = {"loss": Outliers(), "norm": Outliers()} if bits.optimizer.skips else {}
        self.observe: Observer | None = None  # one rank only: sees every tensor of a step in the order of computation
        self.step = 0
        self.link = ""

    def _decay_ranges(self, size: int) -> list[tuple[int, int, float]]:
        """(begin, end, weight decay) within the shard: decay is for matrices only."""
        ranges: list[tuple[int, int, float]] = []
        offset, last = 0, self.first + size
        for shape in [*self.model.shapes.values(), (self.model.flat_size - self.model.size,)]:
            end = offset + math.prod(shape)
            decay = self.recipe.bits.optimizer.weight_decay if len(shape) > 1 else 0.0
            a, b = max(offset, self.first) - self.first, min(end, last) - self.first
            if a < b:
                if ranges and ranges[-1][2] == decay:
                    ranges[-1] = (ranges[-1][0], b, decay)
                else:
                    ranges.append((a, b, decay))
            offset = end
        return ranges

    # ------------------------------------------------------------------ a step

    def _lane(self, i: int, grads: Tensor, loss: Tensor, done: Callable[[str], None] | None = None) -> None:
        """Forward and backward of own lane i: one chain over its tokens, in whole sequences at a time."""
        lane, model, prefix = self.feed.lanes[i], self.model, f"lane.{self.own_lanes[i]}/"
        see = self.observe
        model.observe = (lambda name, tensor: see(prefix + name, tensor)) if see else None
        if see:
            see(prefix + "tokens", lane.tokens)
            see(prefix + "targets", lane.targets)
        model.begin_lane()
        for first in range(0, self.lane_sequences, self.micro_batch):
            part = slice(first, first + self.micro_batch)
            last = first + self.micro_batch >= self.lane_sequences
            losses = model.accumulate(
                lane.tokens[part], lane.targets[part], lane.slots[part], grads, self.loss_scale, done if last else None
            )
            ops.chain_sum(loss, losses)
        model.finish_lane(grads, lane.rows)
        if see:
            views = model.named(grads)
            for name in reversed(views):  # the order in which the backward pass completes them
                see(f"{prefix}gradient/{name}", views[name])

    def one_lane(self, lane: int) -> float:
        """A lane of the next step alone, for the observer; returns the sum of its losses. Changes no state."""
        self.feed.load(self.step + 1, self.own_lanes, [0.0] * 3)
        total, grads = self.totals[:1].zero_(), self.counter.fresh()
        self._lane(self.own_lanes.index(lane), grads, total)
        self.counter.release(grads)
        return total.item()

    def _sum_over_lanes(self) -> Tensor:
        """This rank's shard of the gradient of the whole batch; fills lane_losses."""
        self.lane_losses.zero_()
        final = len(self.own_lanes) - 1
        for i in range(final + (self.exchange is None)):
            grads = self.counter.fresh()
            self._lane(i, grads, self.lane_losses[i : i + 1])
            self.counter.push(grads)
        if self.exchange is None:
            return self.counter.total()
        exchange, grads = self.exchange, self.counter.fresh()
        total = grads

        def done(name: str) -> None:
            """Send what the last lane has completed, while the rest of its backward pass runs."""
            nonlocal total
            pending = exchange.pending(self.offsets[name])
            if pending:
                total = self.counter.finish(grads, *pending)
                exchange.start(total, *pending)

        self._lane(final, grads, self.lane_losses[final : final + 1], done)
        done(next(iter(self.offsets)))
        self.counter.close()
        return exchange.finish(total[: self.m.numel()])

    def _descend(self) -> None:
        """From the feed to the shard's gradient, loss, norm and AdamW's factor, without waiting for the device."""
        self.gradient = self._sum_over_lanes()
        self.ranks.gather(self.all_losses, self.lane_losses)
        ops.tree_sum(self.totals[:1], self.all_losses)
        ops.norm_partials(self.partials, self.gradient)
        self.ranks.gather(self.all_partials, self.partials)
        ops.tree_sum(self.totals[1:], self.all_partials)
        clip_norm = self.recipe.bits.optimizer.clip_norm
        ops.clip(self.report, self.feed.scalars, self.totals, self.loss_scale, clip_norm)

    def _update(self) -> None:
        """AdamW on the shard, everyone's parameters, without waiting. A NaN factor updates nothing."""
        optimizer, scalars = self.recipe.bits.optimizer, self.feed.scalars
        shard = self.model.parameters[self.first : self.first + self.m.numel()]
        for a, b, decay in self.ranges:
            ops.adamw(
                shard[a:b], self.m[a:b], self.v[a:b], self.gradient[a:b], scalars, optimizer.beta1, optimizer.beta2,
                optimizer.eps, decay,
            )  # fmt: skip
        self.ranks.gather_flat(self.model.parameters)

    def train_step(self, signal: int = 0) -> tuple[Line, int]:
        """One step; returns its chain line (not yet linked) and the union of every rank's signal bits."""
        bits, step = self.recipe.bits, self.step + 1
        lr = learning_rate(bits.schedule, step, bits.steps)
        corrections = [bias_correction(beta, step) for beta in (bits.optimizer.beta1, bits.optimizer.beta2)]
        self.feed.load(step, self.own_lanes, [lr, *corrections])
        self.descend()
        if self.observe:
            self._see_flat("gradient/", self.gradient)
            self.observe("loss", self.report[:1])
            self.observe("norm", self.report[1:])
        if not (self.outliers and self._skip(*self.report.tolist())):
            self.update()
        own = self.model.parameters[self.first : min(self.first + self.m.numel(), self.model.size)]
        if own.numel():
            ops.fingerprint_into(self.results[1:], own, self.first)
        if step < bits.steps:
            self.feed.prepare(step + 1, self.own_lanes)  # while the device works
        results = self.results.cpu()  # the only wait of a step, unless the recipe skips outliers
        loss, norm = results[:1].view(torch.float32).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite(self._diagnose(step, loss, norm))  # AdamW has left everything as it was
        if self.observe:
            self._see_flat("after/optimizer.m.", self.m)
            self._see_flat("after/optimizer.v.", self.v)
            self._see_flat("after/", self.model.parameters)
        self.step = step
        fingerprint, signals = self._agree(int(results[1]), signal)
        return Line(step, loss, lr, norm, fingerprint), signals

    def _see_flat(self, prefix: str, flat: Tensor) -> None:
        for name, view in self.model.named(flat).items():
            if self.observe:
                self.observe(prefix + name, view)

    def _skip(self, loss: float, norm: float) -> bool:
        """Whether the recipe asks that this step, an outlier, changes no weight; the same at every rank."""
        limits = {"loss": self.recipe.bits.optimizer.skip_loss_z, "norm": self.recipe.bits.optimizer.skip_norm_z}
        values = {"loss": loss, "norm": norm}
        found = [series.take(values[name], limits[name])[1] for name, series in self.outliers.items()]
        return any(found)  # of a list: both windows move on

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
        names = self.model.shapes
        where = f"step {step}: loss {loss}, gradient norm {norm}"
        for name, view in self.model.weights.items():
            if ops.first_nonfinite(view) >= 0:
                return f"{where}; the weights {name} held a NaN or Inf at element {ops.first_nonfinite(view)} already"
        self.counter.close()
        for i, lane in enumerate(self.own_lanes):
            grads = self.counter.fresh()
            total = self.totals[:1].zero_()
            self._lane(i, grads, total)
            for name in reversed(list(names)):  # backward order: the last layers are computed first
                at = ops.first_nonfinite(self.model.named(grads)[name])
                if at >= 0:
                    return f"{where}; first in lane {lane}: gradient of {name}, element {at} (loss {total.item()})"
            self.counter.push(grads)
        return f"{where}; every lane of rank {self.ranks.rank} is finite: the sum over lanes overflowed or another rank's is not"

    # ------------------------------------------------------------------ state

    def initialise(self) -> None:
        """The state before step 1, with the link that a chain begins from."""
        self.link = START
        self.model.initialise(self.recipe.bits.seed, self.recipe.bits.init)

    def _whole(self, shard: Tensor) -> Tensor:
        """A sharded buffer in full, at every rank."""
        if self.ranks.size == 1:
            return shard
        whole = torch.zeros(self.ranks.size, shard.numel(), device=shard.device)
        self.ranks.gather(whole, shard)
        return whole.view(-1)

    def checkpoint(self) -> Checkpoint:
        """The state in canonical order; every rank must call it."""
        tensors: dict[str, Tensor] = {}
        flats = {"": self.model.parameters, "optimizer.m.": self._whole(self.m), "optimizer.v.": self._whole(self.v)}
        for prefix, there in flats.items():
            flat, offset = there.cpu(), 0
            for name, shape in self.model.shapes.items():
                end = offset + math.prod(shape)
                tensors[prefix + name] = flat[offset:end].view(shape).clone()
                offset = end
        tensors |= {f"optimizer.outliers.{name}": series.state() for name, series in self.outliers.items()}
        return Checkpoint(self.step, recipe_id(self.recipe), self.link, tensors)

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Take over a checkpoint of this recipe, on any number of ranks."""
        if checkpoint.recipe_id != recipe_id(self.recipe):
            raise UserError(
                f"{path}: a checkpoint of recipe {checkpoint.recipe_id[:12]}, this one is {recipe_id(self.recipe)[:12]}"
            )
        for prefix, target, first in (
            ("", self.model.parameters, 0),
            ("optimizer.m.", self.m, self.first),
            ("optimizer.v.", self.v, self.first),
        ):
            offset, last = 0, first + target.numel()
            for name, shape in self.model.shapes.items():
                source = checkpoint.tensors[prefix + name]
                if tuple(source.shape) != shape:
                    raise UserError(f"{path}: {name} has shape {tuple(source.shape)}, the recipe's is {shape}")
                a, b = max(offset, first), min(offset + source.numel(), last)
                if a < b:
                    target[a - first : b - first].copy_(source.view(-1)[a - offset : b - offset])
                offset += source.numel()
        for name, series in self.outliers.items():
            series.restore(checkpoint.tensors[f"optimizer.outliers.{name}"])
        self.step, self.link = checkpoint.step, checkpoint.link


def bytes_needed(recipe: Recipe, execution: Execution, ranks: int, tokens_dir: Path) -> int:
    """Bytes of the buffers of one rank of `ranks`, without allocating them."""

    class Place(Ranks):
        def __init__(self) -> None:
            self.rank, self.size, self.device = 0, ranks, torch.device("meta")

    memory = Memory("meta", name_of(execution.device, 0))
    Trainer(recipe, execution, Place(), tokens_dir, memory)
    return memory.bytes


def new_trainer(recipe: Recipe, execution: Execution, ranks: Ranks, tokens_dir: Path) -> Trainer:
    """A Trainer; where memory is too small, a UserError that says how much is needed and what would lower it."""
    try:
        return Trainer(recipe, execution, ranks, tokens_dir)
    except OutOfMemory as error:
        reason = str(error)
    needed = bytes_needed(recipe, execution, ranks.size, tokens_dir)
    ways = {"--micro-batch 1": (replace(execution, micro_batch=1), ranks.size)}
    if not execution.recompute:
        ways["--recompute 1"] = (replace(execution, recompute=True), ranks.size)
    ways["--micro-batch 1 --recompute 1"] = (replace(execution, micro_batch=1, recompute=True), ranks.size)
    if recipe.bits.batch.lanes % (2 * ranks.size) == 0:
        ways[f"--ranks {2 * ranks.size}, each"] = (execution, 2 * ranks.size)
    sizes = {flag: bytes_needed(recipe, way, size, tokens_dir) for flag, (way, size) in ways.items()}
    lower = [f"{flag} {gib(size)}" for flag, size in sizes.items() if size < needed]
    remedy = "would need: " + "; ".join(lower) if lower else "no setting lowers it: take a larger device"
    raise UserError(f"out of memory: the buffers of a rank need {gib(needed)} ({reason}); {remedy}")
