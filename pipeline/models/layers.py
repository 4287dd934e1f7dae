"""What models share: parameters in one flat buffer, and layers with their backward passes.

The numerics of these layers are chosen here and nowhere else. There is no autograd: its order of additions is written
nowhere. Each gradient of a parameter is one chain over the samples of a lane, continued by the next micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cuda_ops import ops
from pipeline.machine.memory import Memory
from pipeline.models.flat import Flat, Parameter
from pipeline.models.model import Observer

Grads = Mapping[str, Tensor]  # views of a flat buffer


class Layers:
    """The weights of a table; `x`'s weight and bias are named x.weight and x.bias."""

    def __init__(self, table: Mapping[str, Parameter], flat_multiple: int, memory: Memory | None) -> None:
        self.memory = memory or Memory()
        self.flat = Flat(table, flat_multiple)
        self.parameters = self.new_flat()
        self.weights = self.flat.views(self.parameters)
        self.observe: Observer | None = None

    def new_flat(self) -> Tensor:
        """A zeroed flat buffer in the layout of the parameters: for gradients."""
        return self.memory.zeros(self.flat.size)

    def _see(self, name: str, tensor: Tensor) -> None:
        if self.observe is not None:
            self.observe(name, tensor)

    def _linear(self, out: Tensor, inp: Tensor, name: str) -> None:
        """out [..., N] = inp [..., K] W^T + bias, W [N, K]."""
        ops.matmul(out, inp, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def _linear_backward(self, dinp: Tensor | None, grads: Grads, name: str, dout: Tensor, inp: Tensor) -> None:
        """Gradients of _linear; dout [B, T, N]. bias and W are continued, then dinp is written, which may be inp's
        buffer."""
        rows_out, rows_inp = dout.view(-1, dout.shape[-1]), inp.view(-1, inp.shape[-1])
        ops.bias_backward(grads[name + ".bias"], dout)
        ops.matmul(grads[name + ".weight"], rows_out, rows_inp, layout="tn", accumulate=True)
        if dinp is not None:
            ops.matmul(dinp.view(-1, dinp.shape[-1]), rows_out, self.weights[name + ".weight"], layout="nn")

    def _layernorm(self, out: Tensor, mean: Tensor, rstd: Tensor, inp: Tensor, name: str) -> None:
        """out = LayerNorm of inp [..., C]; mean and rstd, one per row, are for the backward pass."""
        ops.layernorm_forward(out, mean, rstd, inp, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def _layernorm_backward(
        self, dinp: Tensor, grads: Grads, name: str, dout: Tensor, dresidual: Tensor | None, inp: Tensor, mean: Tensor,
        rstd: Tensor,
    ) -> None:  # fmt: skip
        """dinp [B, T, C] = (dresidual or 0) + gradient of inp; weight and bias are continued. dinp may be dout or
        dresidual."""
        ops.layernorm_backward(
            dinp, grads[name + ".weight"], grads[name + ".bias"], dout, dresidual, inp, self.weights[name + ".weight"],
            mean, rstd,
        )  # fmt: skip
