"""Drawing tokens from logits. Kernels: cpu/sample.cpp, kernels/sample.cu."""

from __future__ import annotations

from torch import Tensor

from cuda_ops.ops._registry import compiled


def sample(
    tokens: Tensor, logits: Tensor, uniforms: Tensor, vocab_size: int, temperature: float, top_k: int = 0
) -> None:
    """tokens [N] int32 from softmax(logits [N, Vp] / temperature) decided by uniforms [N] in [0, 1).

    Candidates stand by (value descending, index ascending); top_k 0 keeps all; temperature 0 is the arg max.
    """
    compiled.sample.default(tokens, logits, uniforms, vocab_size, temperature, top_k)
