"""Products and attention in fp32: chains of fused multiply-adds. See Products."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cuda_ops import ops
from pipeline.machine.memory import Memory


class Fp32:
    """bits.numerics fp32. Nothing is kept, and a piece may begin at any token."""

    def __init__(self, numerics: str, weights: Mapping[str, Tensor], memory: Memory, training: bool) -> None:
        self._weights = weights

    def changed(self) -> None:
        """Nothing follows from the weights."""

    def linear(self, out: Tensor, inp: Tensor, weight: str, bias: Tensor | None = None) -> None:
        ops.matmul(out, inp, self._weights[weight], bias)

    def linear_input(self, dinp: Tensor, dout: Tensor, weight: str) -> None:
        ops.matmul(dinp, dout, self._weights[weight], layout="nn")

    def linear_weight(self, dweight: Tensor, dout: Tensor, inp: Tensor, tokens: int) -> None:
        ops.matmul(dweight, dout, inp, layout="tn", accumulate=True)

    def pieces(self, sequences: int, tokens: int, rows: int) -> list[tuple[int, int]]:
        count = sequences * tokens
        return [(first, min(first + rows, count)) for first in range(0, count, rows)]

    def attention(self, out: Tensor, row_max: Tensor, row_sum: Tensor, qkv: Tensor, heads: int) -> None:
        ops.attention_forward(out, row_max, row_sum, qkv, heads)

    def attention_cached(
        self, out: Tensor, keys: Tensor, values: Tensor, qkv: Tensor, heads: int, position: int
    ) -> None:
        ops.attention_cached(out, keys, values, qkv, heads, position)

    def attention_backward(
        self, dqkv: Tensor, dout: Tensor, out: Tensor, qkv: Tensor, row_max: Tensor, row_sum: Tensor, heads: int
    ) -> None:
        ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, heads)
