"""The compiled ops as torch operators, and their fake kernels (shape propagation without data)."""

from __future__ import annotations

from typing import Any

import torch

from cuda_ops import library

SOURCE_DIGEST = library.load()
compiled = torch.ops.samebits

# Every op writes into tensors it is given and returns nothing, so its fake kernel has nothing to infer.
_WRITING = [
    "matmul",
    "bias_backward",
    "embedding_forward",
    "embedding_backward",
    "embedding_add",
    "layernorm_forward",
    "layernorm_backward",
    "gelu_forward",
    "gelu_backward",
    "residual_forward",
    "attention_forward",
    "attention_backward",
    "attention_cached",
    "cross_entropy_forward",
    "cross_entropy_fused",
    "chain_sum",
    "adamw",
    "norm_partials",
    "tree_sum",
    "unary",
    "fill_normal",
    "fill_uniform",
    "sample",
    "fingerprint_into",
    "first_nonfinite_into",
]


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


for _name in _WRITING:
    torch.library.register_fake(f"samebits::{_name}")(_nothing)
