"""Products and attention in digits, int8x3 and int8x1: exact sums of small integers. See Products.

Weights are cut once and kept until they change: [N, K] along K for the forward pass, along N for the backward pass.
Gradients of weights are summed over tokens in blocks of 128 that begin anew with every sequence.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cuda_ops import ops
from pipeline.machine.memory import Memory

BLOCK = 128  # tokens; kDigitBlock of cuda_ops/numerics/digits.h


class Kept:
    """A matrix in digits, along its rows or, transposed, its columns; cut when it is asked for after a change."""

    def __init__(self, matrix: Tensor, transposed: bool, tier: str, memory: Memory) -> None:
        rows, k = matrix.shape[::-1] if transposed else matrix.shape
        self._matrix, self._transposed, self._tier = matrix, transposed, tier
        self._operand = memory.zeros(ops.digits_bytes(rows, k, tier), dtype=torch.uint8)
        self.fresh = False

    def operand(self) -> Tensor:
        if not self.fresh:
            ops.digits(self._operand, self._matrix, self._transposed, self._tier)
            self.fresh = True
        return self._operand


class Digits:
    """bits.numerics int8x3 and int8x1."""

    def __init__(self, numerics: str, weights: Mapping[str, Tensor], memory: Memory, training: bool) -> None:
        self._tier = numerics
        self._forward = {name: Kept(matrix, False, numerics, memory) for name, matrix in weights.items()}
        kept = weights if training else {}
        self._backward = {name: Kept(matrix, True, numerics, memory) for name, matrix in kept.items()}

    def changed(self) -> None:
        for kept in (*self._forward.values(), *self._backward.values()):
            kept.fresh = False

    def linear(self, out: Tensor, inp: Tensor, weight: str, bias: Tensor | None = None) -> None:
        ops.matmul_kept_digits(out, inp, self._forward[weight].operand(), bias, self._tier)

    def linear_input(self, dinp: Tensor, dout: Tensor, weight: str) -> None:
        ops.matmul_kept_digits(dinp, dout, self._backward[weight].operand(), None, self._tier)

    def linear_weight(self, dweight: Tensor, dout: Tensor, inp: Tensor, tokens: int) -> None:
        ops.matmul_digits(dweight, dout, inp, None, "tn", True, self._tier, tokens)

    def pieces(self, sequences: int, tokens: int, rows: int) -> list[tuple[int, int]]:
        if rows >= tokens:
            each, count = rows // tokens * tokens, sequences * tokens
            return [(first, min(first + each, count)) for first in range(0, count, each)]
        each = rows // BLOCK * BLOCK
        return [
            (s * tokens + first, s * tokens + min(first + each, tokens))
            for s in range(sequences)
            for first in range(0, tokens, each)
        ]

    def attention(self, out: Tensor, row_max: Tensor, row_sum: Tensor, qkv: Tensor, heads: int) -> None:
        ops.attention_digits_forward(out, row_max, row_sum, qkv, heads, self._tier)

    def attention_cached(
        self, out: Tensor, keys: Tensor, values: Tensor, qkv: Tensor, heads: int, position: int
    ) -> None:
        ops.attention_digits_cached(out, keys, values, qkv, heads, position, self._tier)

    def attention_backward(
        self, dqkv: Tensor, dout: Tensor, out: Tensor, qkv: Tensor, row_max: Tensor, row_sum: Tensor, heads: int
    ) -> None:
        ops.attention_digits_backward(dqkv, dout, out, qkv, row_max, row_sum, heads, self._tier)
