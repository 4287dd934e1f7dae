"""What models share: parameters in one flat buffer, and layers with their backward passes.

The numerics of these layers are chosen here and nowhere else. There is no autograd: its order of additions is written
nowhere. Each gradient of a parameter is one chain over the samples of a lane, continued by the next micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cuda_ops import ops
from pipeline.machine.graphs import Branch
from pipeline.machine.memory import Memory
from pipeline.models.flat import Flat, Parameter
from pipeline.models.model import Observer
from pipeline.recipe.recipe import products_kind

Grads = Mapping[str, Tensor]  # views of a flat buffer


class Products(Protocol):
    """What a tier of `bits.numerics` computes: fp32.py, digits.py. Matrices are [N, K] and named by their weight."""

    def __init__(self, numerics: str, weights: Mapping[str, Tensor], memory: Memory, training: bool) -> None:
        """weights: the matrices that inputs are multiplied by."""

    def changed(self) -> None:
        """The weights may have been written: nothing made of them may be used any more."""

    def linear(self, out: Tensor, inp: Tensor, weight: str, bias: Tensor | None = None) -> None:
        """out [..., N] = inp [..., K] W^T (+ bias)."""

    def linear_input(self, dinp: Tensor, dout: Tensor, weight: str) -> None:
        """dinp [R, K] = dout [R, N] W."""

    def linear_weight(self, dweight: Tensor, dout: Tensor, inp: Tensor, tokens: int) -> None:
        """dweight [N, K] continues with dout^T inp: rows of whole sequences of `tokens`, or a piece of one."""

    def pieces(self, sequences: int, tokens: int, rows: int) -> list[tuple[int, int]]:
        """First and last of consecutive pieces of sequences x tokens rows, of at most `rows`, for linear_weight."""

    def attention(self, out: Tensor, row_max: Tensor, row_sum: Tensor, qkv: Tensor, heads: int) -> None:
        """As ops.attention_forward."""

    def attention_cached(
        self, out: Tensor, keys: Tensor, values: Tensor, qkv: Tensor, heads: int, position: int
    ) -> None:
        """As ops.attention_cached."""

    def attention_backward(
        self, dqkv: Tensor, dout: Tensor, out: Tensor, qkv: Tensor, row_max: Tensor, row_sum: Tensor, heads: int
    ) -> None:
        """As ops.attention_backward."""


def products_of(numerics: str) -> type[Products]:
    """The class of a tier."""
    kind = products_kind(numerics)
    found: type[Products] = getattr(import_module(f"pipeline.models.{kind}"), kind.capitalize())
    return found


class Layers:
    """The weights of a table; `x`'s weight and bias are named x.weight and x.bias.

    matrices: the parameters that `products` multiplies by. Whoever asks for weights or parameters may write them.
    """

    def __init__(
        self, table: Mapping[str, Parameter], flat_multiple: int, memory: Memory | None, numerics: str,
        matrices: Iterable[str], training: bool,
    ) -> None:  # fmt: skip
        self.memory = memory or Memory()
        self.flat = Flat(table, flat_multiple)
        self._parameters = self.new_flat()
        self._weights = self.flat.views(self._parameters)
        multiplied = {name: self._weights[name] for name in matrices}
        self.products = products_of(numerics)(numerics, multiplied, self.memory, training)
        self.observe: Observer | None = None
        self.beside = Branch(self.memory.device)

    @property
    def parameters(self) -> Tensor:
        """[flat.size]; to be asked for again whenever it is written."""
        self.products.changed()
        return self._parameters

    @property
    def weights(self) -> dict[str, Tensor]:
        """Views of parameters; to be asked for again whenever one is written."""
        self.products.changed()
        return self._weights

    def new_flat(self) -> Tensor:
        """A zeroed flat buffer in the layout of the parameters: for gradients."""
        return self.memory.zeros(self.flat.size)

    def _see(self, name: str, tensor: Tensor) -> None:
        if self.observe is not None:
            self.observe(name, tensor)

    def _linear(self, out: Tensor, inp: Tensor, name: str) -> None:
        """out [..., N] = inp [..., K] W^T + bias, W [N, K]."""
        self.products.linear(out, inp, name + ".weight", self._weights[name + ".bias"])

    def _linear_backward(self, dinp: Tensor | None, grads: Grads, name: str, dout: Tensor, inp: Tensor) -> None:
        """Gradients of _linear; dout [B, T, N]. bias and W are continued, dinp is written, which may be inp's buffer.

        W's gradient has too few tiles to fill a GPU: what follows runs beside it, up to the caller's beside.join() before
        dout, inp or the gradients are touched. The product of a dinp that is inp waits.
        """
        rows_out, rows_inp = dout.view(-1, dout.shape[-1]), inp.view(-1, inp.shape[-1])

        def continue_parameters() -> None:
            self.products.linear_weight(grads[name + ".weight"], rows_out, rows_inp, dout.shape[1])
            ops.bias_backward(grads[name + ".bias"], dout)

        self.beside.run(continue_parameters)
        if dinp is None or dinp.data_ptr() == inp.data_ptr():
            self.beside.join()
        if dinp is not None:
            self.products.linear_input(dinp.view(-1, dinp.shape[-1]), rows_out, name + ".weight")

    def _layernorm(self, out: Tensor, mean: Tensor, rstd: Tensor, inp: Tensor, name: str) -> None:
        """out = LayerNorm of inp [..., C]; mean and rstd, one per row, are for the backward pass."""
        ops.layernorm_forward(out, mean, rstd, inp, self._weights[name + ".weight"], self._weights[name + ".bias"])

    def _layernorm_backward(
        self, dinp: Tensor, grads: Grads, name: str, dout: Tensor, dresidual: Tensor | None, inp: Tensor, mean: Tensor,
        rstd: Tensor,
    ) -> None:  # fmt: skip
        """dinp [B, T, C] = (dresidual or 0) + gradient of inp; weight and bias are continued. dinp may be dout or
        dresidual."""
        ops.layernorm_backward(
            dinp, grads[name + ".weight"], grads[name + ".bias"], dout, dresidual, inp, self._weights[name + ".weight"],
            mean, rstd,
        )  # fmt: skip


def embedding_slots(tokens: NDArray[np.int32], rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where each token's input-embedding gradient is kept, and whose it is; computed on the host.

    tokens: those of a whole lane, any shape. Returns slots, of that shape, and the distinct tokens by slot [rows],
    ascending, then -1: their number differs from step to step, the buffers' sizes do not.
    """
    distinct, slots = np.unique(tokens, return_inverse=True)
    padded = np.full(rows, -1, dtype=np.int32)
    padded[: len(distinct)] = distinct
    return slots.reshape(tokens.shape).astype(np.int32), padded
