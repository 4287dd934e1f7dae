"""Softmax cross-entropy. Kernels: cpu/cross_entropy.cpp, kernels/cross_entropy.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def cross_entropy_forward(losses: Tensor, logits: Tensor, targets: Tensor, vocab_size: int) -> None:
    """losses [N] in nats from logits [N, Vp] and targets [N] int32; only the first vocab_size columns are real.

    Order: exact maximum, then a row reduction of the exponentials.
    """
    compiled.cross_entropy_forward.default(losses, logits, targets, vocab_size)


def cross_entropy_fused(losses: Tensor, logits: Tensor, targets: Tensor, dloss: float, vocab_size: int) -> None:
    """The same losses, and logits becomes its own gradient times dloss, 0 in the padded columns."""
    compiled.cross_entropy_fused.default(losses, logits, targets, dloss, vocab_size)
