"""GPT-2 with explicit forward and backward over buffers that are allocated once.

Architecture: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: pre-LayerNorm
blocks, a final LayerNorm, learned positions, the lm head tied to the token embedding, GELU in its tanh form.
There is no autograd: its order of additions is written nowhere. Here each gradient is one chain in token order,
continued by the next micro-batch, so any micro-batch of whole sequences gives the same bits.

Shapes: B sequences of a micro-batch, T tokens, C channels, H heads, V vocabulary, Vp padded vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from cuda_ops import ops
from cuda_ops.errors import UserError
from pipeline import recipe
from pipeline.base.philox import Stream
from pipeline.machine.memory import Memory
from pipeline.models.flat import Parameter, Shape
from pipeline.models.layers import Grads, Layers, embedding_slots
from pipeline.models.model import Arrays, Input, Inputs, int32
from pipeline.recipe.training import Init, NormalInit

# The lm head walks the tokens in pieces: logits of about this many bytes, but of enough rows for an efficient product,
# which on a GPU are those whose tiles fill it. Every sum over tokens is a chain that the next piece continues, so the
# size cannot change a bit.
LOGITS_BYTES, LOGITS_ROWS = 16 * 2**20, {"cpu": 128, "cuda": 4096}


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


class Gpt(Layers):
    """Parameters, forward and backward of one GPT; see Model. A sample is a sequence of T tokens.

    recompute: keep only each block's input and run the block again in the backward pass. decode_batch > 0 allocates a
    KV cache for that many sequences.
    """

    def __init__(
        self, config: recipe.Gpt, micro_batch: int, *, lane_samples: int = 0, recompute: bool = False,
        training: bool = True, decode_batch: int = 0, flat_multiple: int = 1, memory: Memory | None = None,
        numerics: str = "fp32",
    ) -> None:  # fmt: skip
        table = self.table(config)
        matrices = [name for name, parameter in table.items() if parameter.decay and name != "wpe.weight"]
        super().__init__(table, flat_multiple, memory, numerics, matrices, training)
        self.config = config
        self.micro_batch = micro_batch
        self.recompute = recompute
        self.training = training
        padding = config.padded_vocab_size - config.vocab_size
        if self.flat.used - padding * config.channels != config.parameters:
            raise AssertionError("parameter count differs from the paper's formula")
        self._allocate(micro_batch, max(lane_samples, micro_batch), decode_batch)

    # ------------------------------------------------------------------ what it is

    @staticmethod
    def table(config: recipe.Gpt) -> dict[str, Parameter]:
        """The parameters; weight decay is for matrices only (Brown et al. 2020, appendix B)."""

        def matrix(rows: int, columns: int) -> Parameter:
            return Parameter((rows, columns), decay=True)

        def vector(size: int) -> Parameter:
            return Parameter((size,))

        c = config.channels
        table = {"wte.weight": matrix(config.padded_vocab_size, c), "wpe.weight": matrix(config.context, c)}
        for i in range(config.layers):
            table |= {
                f"h.{i}.ln_1.weight": vector(c),
                f"h.{i}.ln_1.bias": vector(c),
                f"h.{i}.attn.qkv.weight": matrix(3 * c, c),
                f"h.{i}.attn.qkv.bias": vector(3 * c),
                f"h.{i}.attn.proj.weight": matrix(c, c),
                f"h.{i}.attn.proj.bias": vector(c),
                f"h.{i}.ln_2.weight": vector(c),
                f"h.{i}.ln_2.bias": vector(c),
                f"h.{i}.mlp.fc.weight": matrix(4 * c, c),
                f"h.{i}.mlp.fc.bias": vector(4 * c),
                f"h.{i}.mlp.proj.weight": matrix(c, 4 * c),
                f"h.{i}.mlp.proj.bias": vector(c),
            }
        return table | {"ln_f.weight": vector(c), "ln_f.bias": vector(c)}

    @staticmethod
    def inputs(config: recipe.Gpt, samples: int) -> dict[str, Input]:
        """Tokens, targets and slots [S, T], rows [R]; see embedding_slots."""
        tokens = Input((samples, config.context))
        rows = Input((min(config.vocab_size, samples * config.context),))
        return {"tokens": tokens, "targets": tokens, "slots": tokens, "rows": rows}

    @staticmethod
    def lane(config: recipe.Gpt, arrays: Arrays) -> dict[str, Tensor]:
        """From arrays tokens and targets [S, T]."""
        tokens = arrays["tokens"]
        slots, rows = embedding_slots(tokens, min(config.vocab_size, tokens.size))
        values = {"tokens": tokens, "targets": arrays["targets"], "slots": slots, "rows": rows}
        return {name: int32(value) for name, value in values.items()}

    @staticmethod
    def shown(config: recipe.Gpt, samples: int) -> dict[str, Shape]:
        """Inputs, activations forward, their gradients d.<what> from the last op to the first; see the calls of
        _see."""
        t, c = config.context, config.channels
        row, wide, qkv = ((samples, t, n * c) for n in (1, 4, 3))
        logits = (samples * t, config.padded_vocab_size)
        found: dict[str, Shape] = {"tokens": (samples, t), "targets": (samples, t), "embedding": row}
        for i in range(config.layers):
            block = {"ln_1": row, "attn.qkv": qkv, "attn": row, "attn.proj": row, "middle": row, "ln_2": row}
            block |= {"mlp.fc": wide, "mlp.gelu": wide, "mlp.proj": row, "out": row}
            found |= {f"h.{i}.{name}": shape for name, shape in block.items()}
        found |= {
            "ln_f": row,
            "logits": logits,
            "losses": (samples * t,),
            "d.logits": logits,
            "d.ln_f": row,
            "d.stream": row,
        }
        for i in reversed(range(config.layers)):
            block = {"mlp.gelu": wide, "mlp.fc": wide, "ln_2": row, "middle": row, "attn": row, "attn.qkv": qkv}
            found |= {f"d.h.{i}.{name}": shape for name, shape in (block | {"ln_1": row, "in": row}).items()}
        return found

    # ------------------------------------------------------------------ buffers

    def _allocate(self, batch: int, lane_samples: int, decode_batch: int) -> None:
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
            # Statistics of a LayerNorm that runs again beside the kernel that reads the first ones.
            self._again_mean, self._again_rstd = buffer(batch, t), buffer(batch, t)
            self._dembedding = buffer(*self.inputs(cfg, lane_samples)["rows"].shape, c)
        self._keys = [buffer(decode_batch, h, t, c // h) for _ in range(cfg.layers if decode_batch else 0)]
        self._values = [buffer(*cache.shape) for cache in self._keys]

    # ------------------------------------------------------------------ parameters

    def initialise(self, seed: int, init: Init) -> None:
        """GPT-2's initialisation: N(0, std) for matrices, std / sqrt(2 layers) for the two projections into the
        residual stream (section 2.3), ones and zeros for LayerNorm, zero biases, zero padded vocabulary rows. `normal`
        is the same without the smaller projections.

        Element i of the flat space is normal number i of the stream INIT: independent of everything else.
        """
        if not isinstance(init, recipe.Gpt2Init | NormalInit):
            raise UserError(f"bits.init.kind {init.kind}: a gpt takes gpt2 or normal")
        residual_std = init.std / math.sqrt(2 * self.config.layers) if init.kind == "gpt2" else init.std
        for name, offset in self.flat.offsets.items():
            view = self.weights[name]
            if view.dim() == 2:
                std = residual_std if name.endswith("proj.weight") else init.std
                ops.fill_normal(view, seed, int(Stream.INIT), offset, 0.0, std)
            else:
                view.fill_(1.0 if ".weight" in name else 0.0)
        self.weights["wte.weight"][self.config.vocab_size :].zero_()

    # ------------------------------------------------------------------ forward

    def _block_forward(self, i: int, x: Tensor, out: Tensor, position: int | None = None) -> None:
        """out[b, t, C] = block i of x; with a position, attention reads and extends the KV cache."""
        b, t = x.shape[:2]
        a, prefix = self._blocks[i], f"h.{i}."

        def part(buffer: Tensor) -> Tensor:
            return buffer.view(-1)[: b * t * buffer.shape[-1]].view(b, t, -1)

        def per_row(buffer: Tensor) -> Tensor:
            return buffer.view(-1)[: b * t].view(b, t)

        qkv, attended, middle, fc = part(a.qkv), part(a.attended), part(a.middle), part(a.fc)
        normalised, branch, wide = part(self._normalised), part(self._branch), part(self._wide)
        self._layernorm(normalised, per_row(a.ln_1_mean), per_row(a.ln_1_rstd), x, prefix + "ln_1")
        self._see(prefix + "ln_1", normalised)
        self._linear(qkv, normalised, prefix + "attn.qkv")
        self._see(prefix + "attn.qkv", qkv)
        if position is None:
            h = self.config.heads
            row_max, row_sum = (s.view(-1)[: b * h * t].view(b, h, t) for s in (a.row_max, a.row_sum))
            self.products.attention(attended, row_max, row_sum, qkv, h)
        else:
            keys, values = self._keys[i][:b], self._values[i][:b]
            self.products.attention_cached(attended, keys, values, qkv, self.config.heads, position)
        self._see(prefix + "attn", attended)
        self._linear(branch, attended, prefix + "attn.proj")
        self._see(prefix + "attn.proj", branch)
        ops.add(middle, x, branch)
        self._see(prefix + "middle", middle)
        self._layernorm(normalised, per_row(a.ln_2_mean), per_row(a.ln_2_rstd), middle, prefix + "ln_2")
        self._see(prefix + "ln_2", normalised)
        self._linear(fc, normalised, prefix + "mlp.fc")
        self._see(prefix + "mlp.fc", fc)
        ops.gelu_forward(wide, fc)
        self._see(prefix + "mlp.gelu", wide)
        self._linear(branch, wide, prefix + "mlp.proj")
        self._see(prefix + "mlp.proj", branch)
        ops.add(out, middle, branch)
        self._see(prefix + "out", out)

    def _forward(self, tokens: Tensor, position: int | None = None) -> Tensor:
        """Final LayerNorm's output [b, t, C] of tokens [b, t] int32, t <= context."""
        b, t = tokens.shape
        if (position is None and b > self.micro_batch) or t > self.config.context:
            raise ValueError(f"tokens [{b}, {t}] exceed the buffers [{self.micro_batch}, {self.config.context}]")
        c = self.config.channels
        streams = [s.view(-1)[: b * t * c].view(b, t, c) for s in self._streams]
        x = streams[0]
        wte, wpe = self._weights["wte.weight"], self._weights["wpe.weight"]
        ops.embedding_forward(x, tokens, wte, wpe, position or 0)
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
        losses, flat_targets = self._losses.view(-1)[: tokens.numel()], targets.reshape(-1)
        for first, last, logits in self.logits(tokens):
            ops.cross_entropy_forward(losses[first:last], logits, flat_targets[first:last], self.config.vocab_size)
        return losses.view(tokens.shape)

    def logits(self, tokens: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Logits [last - first, Vp] after the tokens first .. last - 1 of [b * t]; a buffer, piece after piece."""
        hidden = self._forward(tokens).view(-1, self.config.channels)
        for first, last, logits in self._pieces(*tokens.shape):
            self.products.linear(logits, hidden[first:last], "wte.weight")
            yield first, last, logits

    def _pieces(self, sequences: int, tokens: int) -> list[tuple[int, int, Tensor]]:
        """(first, last, logits buffer) of consecutive pieces of the tokens."""
        pieces = self.products.pieces(sequences, tokens, self._logits.shape[0])
        return [(first, last, self._logits[: last - first]) for first, last in pieces]

    # ------------------------------------------------------------------ backward

    def begin_lane(self, lane: Inputs) -> None:
        """Start a lane: its input-embedding gradient, one row per distinct token, is zeroed."""
        self._see("tokens", lane["tokens"])
        self._see("targets", lane["targets"])
        self._dembedding.zero_()

    def accumulate(
        self, lane: Inputs, part: slice, grads: Tensor, loss_scale: float, done: Callable[[str], None] | None = None
    ) -> Tensor:
        """Forward and backward of the sequences `part` of the lane; returns their losses [b, T] (a buffer).

        done is called once per block, from the last to the first. Only finish_lane completes wte.weight's gradient.
        """
        tokens, targets, slots = (lane[name][part] for name in ("tokens", "targets", "slots"))
        b, t = tokens.shape
        c = self.config.channels
        hidden = self._forward(tokens)
        g = self.flat.views(grads)
        losses, flat_targets = self._losses.view(-1)[: b * t], targets.reshape(-1)
        dhidden = self._branch[:b]
        flat_hidden, flat_dhidden = hidden.view(-1, c), dhidden.view(-1, c)
        for first, last, logits in self._pieces(b, t):
            self.products.linear(logits, flat_hidden[first:last], "wte.weight")
            self._see("logits", logits)
            ops.cross_entropy_fused(
                losses[first:last], logits, flat_targets[first:last], loss_scale, self.config.vocab_size
            )
            self._see("losses", losses[first:last])
            self._see("d.logits", logits)
            # The one with few and long chains first.
            self.beside.run(partial(self.products.linear_input, flat_dhidden[first:last], logits, "wte.weight"))
            self.products.linear_weight(g["wte.weight"], logits, flat_hidden[first:last], t)
            self.beside.join()
        self._see("d.ln_f", dhidden)
        dstream = self._dstream[:b]
        x = self._streams[self.config.layers][:b]
        self._layernorm_backward(dstream, g, "ln_f", dhidden, None, x, self._ln_f_mean[:b], self._ln_f_rstd[:b])
        self._see("d.stream", dstream)
        for i in reversed(range(self.config.layers)):
            self._block_backward(i, dstream, g)
            if done:
                done(f"h.{i}.ln_1.weight")
        ops.embedding_backward(self._dembedding, g["wpe.weight"], dstream, slots)
        return losses.view(b, t)

    def _block_backward(self, i: int, dstream: Tensor, g: Grads) -> None:
        """dstream [b, T, C]: the gradient of block i's output, replaced by that of its input."""
        b = dstream.shape[0]
        a, prefix = self._blocks[i], f"h.{i}."
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
        again = self._again_mean[:b], self._again_rstd[:b]
        self.beside.run(partial(self._layernorm, normalised, *again, a.middle[:b], prefix + "ln_2"))
        self._linear_backward(dbranch, g, prefix + "mlp.fc", dwide, normalised)
        self._see("d." + prefix + "ln_2", dbranch)
        self._layernorm_backward(
            dstream, g, prefix + "ln_2", dbranch, dstream, a.middle[:b], a.ln_2_mean[:b], a.ln_2_rstd[:b]
        )
        self._see("d." + prefix + "middle", dstream)
        self._linear_backward(dbranch, g, prefix + "attn.proj", dstream, attended)
        self._see("d." + prefix + "attn", dbranch)
        self.beside.join()  # dqkv is where the gradient of fc was
        kept = attended, a.qkv[:b], a.row_max[:b], a.row_sum[:b]
        self.products.attention_backward(dqkv, dbranch, *kept, self.config.heads)
        self._see("d." + prefix + "attn.qkv", dqkv)
        self.beside.run(partial(self._layernorm, normalised, *again, x, prefix + "ln_1"))
        self._linear_backward(dbranch, g, prefix + "attn.qkv", dqkv, normalised)
        self._see("d." + prefix + "ln_1", dbranch)
        self._layernorm_backward(dstream, g, prefix + "ln_1", dbranch, dstream, x, a.ln_1_mean[:b], a.ln_1_rstd[:b])
        self.beside.join()
        self._see("d." + prefix + "in", dstream)

    def finish_lane(self, lane: Inputs, grads: Tensor) -> None:
        """Add the input embedding's gradient to the lm head's, once per lane: the two uses of the tied matrix."""
        ops.embedding_add(self.flat.views(grads)["wte.weight"], self._dembedding, lane["rows"])

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
        self.products.linear(logits, hidden[:, -1].contiguous(), "wte.weight")
        return logits
