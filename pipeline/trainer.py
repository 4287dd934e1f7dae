"""One training step, and the state it acts on.

A step: each own lane forward and backward, lanes added by a tree, all-to-all so that each rank holds its shard of every
rank's sum, the tree over ranks, the norm over fixed chunks, AdamW on the shard (ZeRO-1: moments exist only there), parameters
gathered. Who computes a lane, in which micro-batches, cannot be seen in the result.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cuda_ops import ops
from pipeline.batches import Batches
from pipeline.chain import Line
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.execution import Execution
from pipeline.lanes import LaneCounter, lanes_of, tree_over_rows
from pipeline.models.gpt import Gpt, Observer
from pipeline.outliers import Outliers
from pipeline.ranks import Ranks
from pipeline.recipe import Recipe, recipe_id
from pipeline.schedule import bias_correction, learning_rate


class NotFinite(Exception):
    """Loss or gradient became NaN or infinite; the message names step, lane and tensor."""


def fp32(x: float) -> float:
    """The fp32 value nearest to x."""
    return float(np.float32(x))


class Trainer:
    """Model, optimizer state and buffers of one rank; everything is allocated here."""

    def __init__(self, recipe: Recipe, execution: Execution, ranks: Ranks, tokens_dir: Path) -> None:
        bits = recipe.bits
        self.recipe, self.ranks = recipe, ranks
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
        )
        size = self.model.flat_size // ranks.size
        self.first = ranks.rank * size  # of this rank's shard in the flat space
        self.counter = LaneCounter(len(self.own_lanes), self.model.new_flat)
        self.received = torch.zeros(ranks.size, size) if ranks.size > 1 else None
        self.m, self.v = torch.zeros(size), torch.zeros(size)
        chunks = size // ops.NORM_CHUNK
        self.partials, self.all_partials = torch.zeros(chunks), torch.zeros(ranks.size * chunks)
        self.lane_losses = torch.zeros(len(self.own_lanes))
        self.all_losses = torch.zeros(bits.batch.lanes)
        self.scalar = torch.zeros(1)
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

    def _lane(self, lane: int, step: int, grads: Tensor, loss: Tensor) -> None:
        """Forward and backward of one lane: one chain over its tokens, in whole sequences at a time."""
        tokens, targets = self.batches.get(step, lane * self.lane_sequences, self.lane_sequences)
        see = self.observe
        self.model.observe = (lambda name, tensor: see(f"lane.{lane}/{name}", tensor)) if see else None
        if see:
            see(f"lane.{lane}/tokens", tokens)
            see(f"lane.{lane}/targets", targets)
        self.model.begin_lane(tokens)
        for first in range(0, self.lane_sequences, self.micro_batch):
            part = slice(first, first + self.micro_batch)
            losses = self.model.accumulate(tokens[part], targets[part], grads, self.loss_scale)
            ops.chain_sum(loss, losses)
        self.model.finish_lane(grads)
        if see:
            views = self.model.named(grads)
            for name in reversed(views):  # the order in which the backward pass completes them
                see(f"lane.{lane}/gradient/{name}", views[name])

    def one_lane(self, lane: int) -> float:
        """A lane of the next step alone, for the observer; returns the sum of its losses. Changes no state."""
        total = torch.zeros(1)
        grads = self.counter.fresh()
        self._lane(lane, self.step + 1, grads, total)
        self.counter.release(grads)
        return total.item()

    def _sum_over_lanes(self, step: int) -> Tensor:
        """This rank's shard of the gradient of the whole batch; fills all_losses."""
        self.lane_losses.zero_()
        for i, lane in enumerate(self.own_lanes):
            grads = self.counter.fresh()
            self._lane(lane, step, grads, self.lane_losses[i : i + 1])
            self.counter.push(grads)
        mine = self.counter.total()
        self.ranks.gather(self.all_losses, self.lane_losses)
        if self.received is None:
            return mine
        self.ranks.exchange(self.received, mine.view(self.ranks.size, -1))
        return tree_over_rows(self.received)

    def train_step(self, signal: int = 0) -> tuple[Line, int]:
        """One step; returns its chain line (not yet linked) and the union of every rank's signal bits."""
        bits, step = self.recipe.bits, self.step + 1
        gradient = self._sum_over_lanes(step)
        ops.tree_sum(self.scalar, self.all_losses)
        loss = fp32(self.scalar.item() * self.loss_scale)
        ops.norm_partials(self.partials, gradient)
        self.ranks.gather(self.all_partials, self.partials)
        ops.tree_sum(self.scalar, self.all_partials)
        norm = fp32(math.sqrt(self.scalar.item())) if self.scalar.item() >= 0 else math.nan
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite(self._diagnose(step, loss, norm))
        if self.observe:
            self._see_flat("gradient/", gradient)
            self.observe("loss", torch.tensor([loss]))
            self.observe("norm", torch.tensor([norm]))
        lr = learning_rate(bits.schedule, step, bits.steps)
        if not self._skip(loss, norm):
            self._update(step, gradient, norm, lr)
        if self.observe:
            self._see_flat("after/optimizer.m.", self.m)
            self._see_flat("after/optimizer.v.", self.v)
            self._see_flat("after/", self.model.parameters)
        self.step = step
        fingerprint, signals = self._fingerprint(signal)
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

    def _update(self, step: int, gradient: Tensor, norm: float, lr: float) -> None:
        """AdamW on this rank's shard, then every rank's parameters."""
        bits = self.recipe.bits
        clip = fp32(bits.optimizer.clip_norm)
        scale = 1.0 if norm <= clip else fp32(clip / norm)
        corrections = [bias_correction(beta, step) for beta in (bits.optimizer.beta1, bits.optimizer.beta2)]
        size = self.m.numel()
        shard = self.model.parameters[self.first : self.first + size]
        for a, b, decay in self.ranges:
            ops.adamw(
                shard[a:b], self.m[a:b], self.v[a:b], gradient[a:b], scale, lr, bits.optimizer.beta1,
                bits.optimizer.beta2, bits.optimizer.eps, decay, *corrections,
            )  # fmt: skip
        self.ranks.gather_flat(self.model.parameters)

    def _fingerprint(self, signal: int) -> tuple[int, int]:
        """Fingerprint of all parameters, each rank summing its shard, and the union of the signals."""
        end = min(self.first + self.m.numel(), self.model.size)
        own = self.model.parameters[self.first : end] if end > self.first else self.model.parameters[:0]
        mine = torch.tensor([_signed(ops.fingerprint(own, self.first)), signal], dtype=torch.int64)
        self.ranks.gather(self.signals, mine)
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
        for lane in self.own_lanes:
            grads = self.counter.fresh()
            total = torch.zeros(1)
            self._lane(lane, step, grads, total)
            for name in reversed(list(names)):  # backward order: the last layers are computed first
                at = ops.first_nonfinite(self.model.named(grads)[name])
                if at >= 0:
                    return f"{where}; first in lane {lane}: gradient of {name}, element {at} (loss {total.item()})"
            self.counter.push(grads)
        return f"{where}; every lane of rank {self.ranks.rank} is finite: the sum over lanes overflowed or another rank's is not"

    # ------------------------------------------------------------------ state

    def initialise(self) -> None:
        self.model.initialise(self.recipe.bits.seed, self.recipe.bits.init)

    def _whole(self, shard: Tensor) -> Tensor:
        """A sharded buffer in full, at every rank."""
        if self.ranks.size == 1:
            return shard
        whole = torch.zeros(self.ranks.size, shard.numel())
        self.ranks.gather(whole, shard)
        return whole.view(-1)

    def checkpoint(self) -> Checkpoint:
        """The state in canonical order; every rank must call it."""
        tensors: dict[str, Tensor] = {}
        flats = {"": self.model.parameters, "optimizer.m.": self._whole(self.m), "optimizer.v.": self._whole(self.v)}
        for prefix, flat in flats.items():
            offset = 0
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


def _signed(value: int) -> int:
    (signed,) = struct.unpack("<q", struct.pack("<Q", value))
    return int(signed)
