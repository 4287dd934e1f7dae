"""GPT-2 with explicit forward and backward over buffers that are allocated once.

Architecture: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: pre-LayerNorm
blocks, a final LayerNorm, learned positions, the lm head tied to the token embedding, GELU in its tanh form.
There is no autograd: its order of additions is written nowhere. Here each gradient is one chain in token order,
continued by the next micro-batch, so any micro-batch of whole sequences gives the same bits.

Shapes: B sequences of a micro-batch, T tokens, C channels, H heads, V vocabulary, Vp padded vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cuda_ops import ops
from pipeline import recipe
from pipeline.base.philox import Stream
from pipeline.machine.graphs import Branch
from pipeline.machine.memory import Memory

# The lm head walks the tokens in pieces: logits of about this many bytes, but of enough rows for an efficient product,
# which on a GPU are those whose tiles fill it. Every sum over tokens is a chain that the next piece continues, so the
# size cannot change a bit.
LOGITS_BYTES, LOGITS_ROWS = 16 * 2**20, {"cpu": 128, "cuda": 4096}

# Is shown each tensor of a training step as it is computed; pipeline/evidence/trace.py names them.
Observer = Callable[[str, Tensor], None]


def parameter_shapes(config: recipe.Gpt) -> dict[str, tuple[int, ...]]:
    """Names and shapes in canonical order: the order of the flat parameter space and of every digest."""
    c = config.channels
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.padded_vocab_size, c),
        "wpe.weight": (config.context, c),
    }
    for i in range(config.layers):
        shapes |= {
            f"h.{i}.ln_1.weight": (c,),
            f"h.{i}.ln_1.bias": (c,),
            f"h.{i}.attn.qkv.weight": (3 * c, c),
            f"h.{i}.attn.qkv.bias": (3 * c,),
            f"h.{i}.attn.proj.weight": (c, c),
            f"h.{i}.attn.proj.bias": (c,),
            f"h.{i}.ln_2.weight": (c,),
            f"h.{i}.ln_2.bias": (c,),
            f"h.{i}.mlp.fc.weight": (4 * c, c),
            f"h.{i}.mlp.fc.bias": (4 * c,),
            f"h.{i}.mlp.proj.weight": (c, 4 * c),
            f"h.{i}.mlp.proj.bias": (c,),
        }
    return shapes | {"ln_f.weight": (c,), "ln_f.bias": (c,)}


def parameter_count(config: recipe.Gpt) -> int:
    """Scalars in the flat parameter space, the padding of the vocabulary included."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())


def embedding_slots(tokens: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Where each token's input-embedding gradient is kept, and whose it is; computed on the host.

    tokens: those of a whole lane, int32, any shape. Returns slots, of that shape, and the distinct tokens by slot [rows],
    ascending, then -1: their number differs from step to step, the buffers' sizes do not.
    """
    distinct, slots = np.unique(tokens.numpy(), return_inverse=True)
    padded = np.full(rows, -1, dtype=np.int32)
    padded[: len(distinct)] = distinct
    return torch.from_numpy(slots.reshape(tokens.shape).astype(np.int32)), torch.from_numpy(padded)


@dataclass
class Activations:
    """What the backward pass of one block reads, besides the block's input. All fp32, [B, T, ...].

    The outputs of the two LayerNorms and of GELU are not kept: they are cheap to compute again.
    """

    ln_1_mean: Tensor
    ln_1_rstd: Tensor
    qkv: Tensor  # [B, T, 3C]
    attended: Tensor
    row_max: Tensor  # [B, H, T]
    row_sum: Tensor  # [B, H, T]
    middle: Tensor  # the residual stream between attention and MLP
    ln_2_mean: Tensor
    ln_2_rstd: Tensor
    fc: Tensor  # [B, T, 4C], before GELU


class Gpt:
    """Parameters, forward and backward of one GPT; every buffer is allocated by the constructor.

    micro_batch: the most sequences of one call. lane_sequences: the most sequences of one lane (for the gradient
    of the input embedding). recompute: keep only each block's input and run the block again in the backward pass.
    training=False allocates no gradients; decode_batch > 0 allocates a KV cache for that many sequences.
    flat_multiple: the flat parameter buffer is zero-padded to a multiple of this many scalars. memory: where buffers come
    from (default: the CPU's).
    """

    def __init__(
        self,
        config: recipe.Gpt,
        micro_batch: int,
        *,
        lane_sequences: int = 0,
        recompute: bool = False,
        training: bool = True,
        decode_batch: int = 0,
        flat_multiple: int = 1,
        memory: Memory | None = None,
    ) -> None:
        self.memory = memory or Memory()
        self.config = config
        self.micro_batch = micro_batch
        self.recompute = recompute
        self.training = training
        self.shapes = parameter_shapes(config)
        self.size = parameter_count(config)
        padding = config.padded_vocab_size - config.vocab_size
        if self.size - padding * config.channels != config.parameters:
            raise AssertionError("parameter count differs from the paper's formula")
        self.flat_size = -(-self.size // flat_multiple) * flat_multiple
        self.parameters = self.new_flat()
        self._views: dict[int, dict[str, Tensor]] = {}
        self.weights = self.named(self.parameters)
        self.observe: Observer | None = None
        self.beside = Branch(self.memory.device)
        self._allocate(micro_batch, max(lane_sequences, micro_batch), decode_batch)

    # ------------------------------------------------------------------ buffers

    def new_flat(self) -> Tensor:
        """A zeroed flat buffer in the layout of the parameters: for gradients."""
        return self.memory.zeros(self.flat_size)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat buffer by parameter name, in canonical order. Views of one buffer are made once."""
        views = self._views.get(flat.data_ptr())
        if views is None:
            views, offset = {}, 0
            for name, shape in self.shapes.items():
                size = math.prod(shape)
                views[name] = flat[offset : offset + size].view(shape)
                offset += size
            self._views[flat.data_ptr()] = views
        return views

    def _allocate(self, batch: int, lane_sequences: int, decode_batch: int) -> None:
        cfg = self.config
        t, c, h = cfg.context, cfg.channels, cfg.heads

        buffer = self.memory.zeros

        def activations() -> Activations:
            return Activations(
                ln_1_mean=buffer(batch, t),
                ln_1_rstd=buffer(batch, t),
                qkv=buffer(batch, t, 3 * c),
                attended=buffer(batch, t, c),
                row_max=buffer(batch, h, t),
                row_sum=buffer(batch, h, t),
                middle=buffer(batch, t, c),
                ln_2_mean=buffer(batch, t),
                ln_2_rstd=buffer(batch, t),
                fc=buffer(batch, t, 4 * c),
            )

        shared = activations()
        keep = self.training and not self.recompute
        self._blocks = [activations() if keep and i > 0 else shared for i in range(cfg.layers)]
        # The residual stream at the input of each block, and after the last.
        streams = cfg.layers + 1 if self.training else 2
        self._streams = [buffer(batch, t, c) for _ in range(streams)]
        # Shared by all blocks, forward and backward: what a LayerNorm gives, a branch of the residual stream or its
        # gradient, the wide layer after GELU or its gradient.
        self._normalised, self._branch, self._wide = buffer(batch, t, c), buffer(batch, t, c), buffer(batch, t, 4 * c)
        self._ln_f_mean, self._ln_f_rstd = buffer(batch, t), buffer(batch, t)
        self._losses = buffer(batch, t)
        rows = min(batch * t, max(LOGITS_ROWS[self.memory.kind], LOGITS_BYTES // (4 * cfg.padded_vocab_size)))
        self._logits = buffer(rows, cfg.padded_vocab_size)
        if self.training:
            self._dstream = buffer(batch, t, c)
            # The gradient of fc lives in the wide layer only until fc's own gradients are done.
            self._dqkv = self._wide.view(-1)[: batch * t * 3 * c].view(batch, t, 3 * c)
            self.embedding_rows = min(cfg.vocab_size, lane_sequences * t)
            self._dembedding = buffer(self.embedding_rows, c)
        self._keys = [buffer(decode_batch, h, t, c // h) for _ in range(cfg.layers if decode_batch else 0)]
        self._values = [buffer(*cache.shape) for cache in self._keys]

    def _see(self, name: str, tensor: Tensor) -> None:
        if self.observe is not None:
            self.observe(name, tensor)

    # ------------------------------------------------------------------ parameters

    def initialise(self, seed: int, init: recipe.Init) -> None:
        """GPT-2's initialisation: N(0, std) for matrices, std / sqrt(2 layers) for the two projections into the
        residual stream (section 2.3), ones and zeros for LayerNorm, zero biases, zero padded vocabulary rows.

        Element i of the flat space is normal number i of the stream INIT: independent of everything else.
        """
        residual_std = init.std / math.sqrt(2 * self.config.layers)
        offset = 0
        for name, view in self.weights.items():
            if view.dim() == 2:
                std = residual_std if name.endswith("proj.weight") else init.std
                ops.fill_normal(view, seed, int(Stream.INIT), offset, 0.0, std)
            else:
                view.fill_(1.0 if ".weight" in name else 0.0)
            offset += view.numel()
        self.weights["wte.weight"][self.config.vocab_size :].zero_()

    # ------------------------------------------------------------------ forward

    def _layernorm(self, out: Tensor, mean: Tensor, rstd: Tensor, x: Tensor, name: str) -> None:
        ops.layernorm_forward(out, mean, rstd, x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def _block_forward(self, i: int, x: Tensor, out: Tensor, position: int | None = None) -> None:
        """out[b, t, C] = block i of x; with a position, attention reads and extends the KV cache."""
        b, t = x.shape[:2]
        w, a, prefix = self.weights, self._blocks[i], f"h.{i}."

        def part(buffer: Tensor) -> Tensor:
            return buffer.view(-1)[: b * t * buffer.shape[-1]].view(b, t, -1)

        def per_row(buffer: Tensor) -> Tensor:
            return buffer.view(-1)[: b * t].view(b, t)

        qkv, attended, middle, fc = part(a.qkv), part(a.attended), part(a.middle), part(a.fc)
        normalised, branch, wide = part(self._normalised), part(self._branch), part(self._wide)
        self._layernorm(normalised, per_row(a.ln_1_mean), per_row(a.ln_1_rstd), x, prefix + "ln_1")
        self._see(prefix + "ln_1", normalised)
        ops.matmul(qkv, normalised, w[prefix + "attn.qkv.weight"], w[prefix + "attn.qkv.bias"])
        self._see(prefix + "attn.qkv", qkv)
        if position is None:
            h = self.config.heads
            row_max, row_sum = (s.view(-1)[: b * h * t].view(b, h, t) for s in (a.row_max, a.row_sum))
            ops.attention_forward(attended, row_max, row_sum, qkv, h)
        else:
            keys, values = self._keys[i][:b], self._values[i][:b]
            ops.attention_cached(attended, keys, values, qkv, self.config.heads, position)
        self._see(prefix + "attn", attended)
        ops.matmul(branch, attended, w[prefix + "attn.proj.weight"], w[prefix + "attn.proj.bias"])
        self._see(prefix + "attn.proj", branch)
        ops.residual_forward(middle, x, branch)
        self._see(prefix + "middle", middle)
        self._layernorm(normalised, per_row(a.ln_2_mean), per_row(a.ln_2_rstd), middle, prefix + "ln_2")
        self._see(prefix + "ln_2", normalised)
        ops.matmul(fc, normalised, w[prefix + "mlp.fc.weight"], w[prefix + "mlp.fc.bias"])
        self._see(prefix + "mlp.fc", fc)
        ops.gelu_forward(wide, fc)
        self._see(prefix + "mlp.gelu", wide)
        ops.matmul(branch, wide, w[prefix + "mlp.proj.weight"], w[prefix + "mlp.proj.bias"])
        self._see(prefix + "mlp.proj", branch)
        ops.residual_forward(out, middle, branch)
        self._see(prefix + "out", out)

    def _forward(self, tokens: Tensor, position: int | None = None) -> Tensor:
        """Final LayerNorm's output [b, t, C] of tokens [b, t] int32, t <= context."""
        b, t = tokens.shape
        if (position is None and b > self.micro_batch) or t > self.config.context:
            raise ValueError(f"tokens [{b}, {t}] exceed the buffers [{self.micro_batch}, {self.config.context}]")
        c = self.config.channels
        streams = [s.view(-1)[: b * t * c].view(b, t, c) for s in self._streams]
        x = streams[0]
        ops.embedding_forward(x, tokens, self.weights["wte.weight"], self.weights["wpe.weight"], position or 0)
        self._see("embedding", x)
        for i in range(self.config.layers):
            out = streams[(i + 1) % len(streams)]
            self._block_forward(i, x, out, position)
            x = out
        ln_f = self._normalised.view(-1)[: b * t * c].view(b, t, c)
        mean, rstd = (s.view(-1)[: b * t].view(b, t) for s in (self._ln_f_mean, self._ln_f_rstd))
        self._layernorm(ln_f, mean, rstd, x, "ln_f")
        self._see("ln_f", ln_f)
        return ln_f

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats of each token, [b, t]; a buffer that the next call overwrites."""
        hidden = self._forward(tokens).view(-1, self.config.channels)
        losses = self._losses.view(-1)[: hidden.shape[0]]
        flat_targets = targets.reshape(-1)
        for first, last, logits in self._pieces(hidden.shape[0]):
            ops.matmul(logits, hidden[first:last], self.weights["wte.weight"])
            ops.cross_entropy_forward(losses[first:last], logits, flat_targets[first:last], self.config.vocab_size)
        return losses.view(tokens.shape)

    def _pieces(self, rows: int) -> list[tuple[int, int, Tensor]]:
        """(first, last, logits buffer) of consecutive pieces of the tokens."""
        size = self._logits.shape[0]
        return [
            (first, min(first + size, rows), self._logits[: min(size, rows - first)]) for first in range(0, rows, size)
        ]

    # ------------------------------------------------------------------ backward

    def begin_lane(self) -> None:
        """Start a lane: its input-embedding gradient, one row per distinct token, is zeroed."""
        self._dembedding.zero_()

    def accumulate(
        self, tokens: Tensor, targets: Tensor, slots: Tensor, grads: Tensor, loss_scale: float,
        done: Callable[[str], None] | None = None,
    ) -> Tensor:  # fmt: skip
        """Forward and backward of one micro-batch [b, T] of the lane; returns the losses [b, T] (a buffer).

        slots [b, T]: see embedding_slots. grads (flat, see new_flat) is continued: every sum over tokens goes on from what it
        holds. loss_scale is the factor of each token's loss, 1 / (tokens of the whole step). done(name) is called when
        the gradients of parameter `name` and all after it have this micro-batch in them. Only finish_lane completes
        wte.weight's gradient.
        """
        b, t = tokens.shape
        c = self.config.channels
        hidden = self._forward(tokens)
        w, g = self.weights, self.named(grads)
        losses, flat_targets = self._losses.view(-1)[: b * t], targets.reshape(-1)
        dhidden = self._branch[:b]
        flat_hidden, flat_dhidden = hidden.view(-1, c), dhidden.view(-1, c)
        for first, last, logits in self._pieces(b * t):
            ops.matmul(logits, flat_hidden[first:last], w["wte.weight"])
            self._see("logits", logits)
            ops.cross_entropy_fused(
                losses[first:last], logits, flat_targets[first:last], loss_scale, self.config.vocab_size
            )
            self._see("losses", losses[first:last])
            self._see("d.logits", logits)
            # The one with few and long chains first.
            self.beside.run(partial(ops.matmul, flat_dhidden[first:last], logits, w["wte.weight"], layout="nn"))
            ops.matmul(g["wte.weight"], logits, flat_hidden[first:last], layout="tn", accumulate=True)
            self.beside.join()
        self._see("d.ln_f", dhidden)
        dstream = self._dstream[:b]
        ops.layernorm_backward(
            dstream, g["ln_f.weight"], g["ln_f.bias"], dhidden, None, self._streams[self.config.layers][:b],
            w["ln_f.weight"], self._ln_f_mean[:b], self._ln_f_rstd[:b],
        )  # fmt: skip
        self._see("d.stream", dstream)
        for i in reversed(range(self.config.layers)):
            self._block_backward(i, dstream, g)
            if done:
                done(f"h.{i}.ln_1.weight")
        ops.embedding_backward(self._dembedding, g["wpe.weight"], dstream, slots)
        return losses.view(b, t)

    def _block_backward(self, i: int, dstream: Tensor, g: dict[str, Tensor]) -> None:
        """dstream [b, T, C]: the gradient of block i's output, replaced by that of its input."""
        b = dstream.shape[0]
        w, a, prefix = self.weights, self._blocks[i], f"h.{i}."
        x = self._streams[i][:b]
        if self.recompute:
            observe, self.observe = self.observe, None  # it was seen the first time
            self._block_forward(i, x, self._normalised[:b])  # its output is not needed again
            self.observe = observe
        normalised, dbranch, wide, dqkv = self._normalised[:b], self._branch[:b], self._wide[:b], self._dqkv[:b]
        attended, fc = a.attended[:b], a.fc[:b]
        # Where the logits' buffer has room, as on a GPU, the gradient of GELU need not take the place of its output.
        dwide = self._logits.view(-1)[: wide.numel()].view(wide.shape) if self._logits.numel() >= wide.numel() else wide
        self.beside.run(partial(ops.gelu_forward, wide, fc))
        self._linear_backward(dwide, g, prefix + "mlp.proj", dstream, wide)
        self._see("d." + prefix + "mlp.gelu", dwide)
        ops.gelu_backward(dwide, dwide, fc)
        self._see("d." + prefix + "mlp.fc", dwide)
        self.beside.join()
        ln_2 = normalised, a.ln_2_mean[:b], a.ln_2_rstd[:b], a.middle[:b], prefix + "ln_2"
        self.beside.run(partial(self._layernorm, *ln_2))
        self._linear_backward(dbranch, g, prefix + "mlp.fc", dwide, normalised)
        self._see("d." + prefix + "ln_2", dbranch)
        ops.layernorm_backward(
            dstream, g[prefix + "ln_2.weight"], g[prefix + "ln_2.bias"], dbranch, dstream, a.middle[:b],
            w[prefix + "ln_2.weight"], a.ln_2_mean[:b], a.ln_2_rstd[:b],
        )  # fmt: skip
        self._see("d." + prefix + "middle", dstream)
        self._linear_backward(dbranch, g, prefix + "attn.proj", dstream, attended)
        self._see("d." + prefix + "attn", dbranch)
        self.beside.join()  # dqkv is where the gradient of fc was
        ops.attention_backward(dqkv, dbranch, attended, a.qkv[:b], a.row_max[:b], a.row_sum[:b], self.config.heads)
        self._see("d." + prefix + "attn.qkv", dqkv)
        self.beside.run(partial(self._layernorm, normalised, a.ln_1_mean[:b], a.ln_1_rstd[:b], x, prefix + "ln_1"))
        self._linear_backward(dbranch, g, prefix + "attn.qkv", dqkv, normalised)
        self._see("d." + prefix + "ln_1", dbranch)
        ops.layernorm_backward(
            dstream, g[prefix + "ln_1.weight"], g[prefix + "ln_1.bias"], dbranch, dstream, x,
            w[prefix + "ln_1.weight"], a.ln_1_mean[:b], a.ln_1_rstd[:b],
        )  # fmt: skip
        self.beside.join()
        self._see("d." + prefix + "in", dstream)

    def _linear_backward(self, dinp: Tensor, g: dict[str, Tensor], name: str, dout: Tensor, inp: Tensor) -> None:
        """Gradients of out = inp W^T + bias: bias and W are continued, dinp is written, which may be inp's buffer.

        W's gradient has too few tiles to fill a GPU: what follows runs beside it, up to the join before dout, inp or the
        gradients are touched. The product of a dinp that is inp waits.
        """
        rows_out, rows_inp = dout.view(-1, dout.shape[-1]), inp.view(-1, inp.shape[-1])

        def continue_parameters() -> None:
            ops.matmul(g[name + ".weight"], rows_out, rows_inp, layout="tn", accumulate=True)
            ops.bias_backward(g[name + ".bias"], dout)

        self.beside.run(continue_parameters)
        if dinp.data_ptr() == inp.data_ptr():
            self.beside.join()
        ops.matmul(dinp.view(-1, dinp.shape[-1]), rows_out, self.weights[name + ".weight"], layout="nn")

    def finish_lane(self, grads: Tensor, rows: Tensor) -> None:
        """Add the input embedding's gradient to the lm head's, once per lane: the two uses of the tied matrix.

        rows [R] int32: see embedding_slots.
        """
        ops.embedding_add(self.named(grads)["wte.weight"], self._dembedding, rows)

    # ------------------------------------------------------------------ decoding

    def decode(self, tokens: Tensor, position: int) -> Tensor:
        """Logits [b, Vp] after the last of tokens [b, t], which stand at position .. position + t - 1.

        Keys and values of earlier positions come from the cache; the bits are those of the full forward pass.
        """
        if not self._keys or tokens.shape[0] > self._keys[0].shape[0]:
            raise ValueError(f"no KV cache for {tokens.shape[0]} sequences: see decode_batch")
        if position + tokens.shape[1] > self.config.context:
            raise ValueError(f"position {position} + {tokens.shape[1]} tokens exceed the context {self.config.context}")
        hidden = self._forward(tokens, position)
        logits = self._logits.view(-1)[: tokens.shape[0] * self.config.padded_vocab_size]
        logits = logits.view(tokens.shape[0], -1)
        ops.matmul(logits, hidden[:, -1].contiguous(), self.weights["wte.weight"])
        return logits
