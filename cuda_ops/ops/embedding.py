"""Token and position embeddings. Kernels: cpu/embedding.cpp, kernels/embedding.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def embedding_forward(out: Tensor, tokens: Tensor, wte: Tensor, wpe: Tensor, position: int = 0) -> None:
    """out [B, T, C] = wte[tokens] + wpe[position + t]; tokens [B, T] int32, each in [0, V)."""
    compiled.embedding_forward.default(out, tokens, wte, wpe, position)


def embedding_backward(dwte: Tensor, dwpe: Tensor, dout: Tensor, tokens: Tensor) -> None:
    """dwte[tokens] += dout, dwpe[t] += dout [B, T, C]: each row a chain in token order."""
    compiled.embedding_backward.default(dwte, dwpe, dout, tokens)


def embedding_add(out: Tensor, src: Tensor, rows: Tensor) -> None:
    """out[rows[i]] += src[i]; rows [n] int32, ascending and distinct; from some place on they may be -1, which is skipped.

    Joins the gradients of a tied embedding.
    """
    compiled.embedding_add.default(out, src, rows)
