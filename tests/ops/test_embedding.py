"""pytest tests/ops/test_embedding.py

Embeddings and their gradients: rows looked up, and chains in token order.
"""

from __future__ import annotations

import torch

from cuda_ops import ops
from tests.bits import assert_bits_equal


def test_embedding_is_a_chain_in_token_order() -> None:
    ids = torch.tensor([[0, 1, 0], [0, 2, 1]], dtype=torch.int32)
    wte, wpe, dout = torch.randn(3, 4), torch.randn(5, 4), torch.randn(2, 3, 4)
    out = torch.empty(2, 3, 4)
    ops.embedding_forward(out, ids, wte, wpe, 2)
    assert_bits_equal(out, wte[ids.long()] + wpe[2:5], "out")
    dwte, dwpe = torch.zeros(3, 4), torch.zeros(5, 4)
    ops.embedding_backward(dwte, dwpe, dout, ids)
    assert_bits_equal(dwte[0], (dout[0, 0] + dout[0, 2]) + dout[1, 0], "token 0")
    assert_bits_equal(dwpe[1], dout[0, 1] + dout[1, 1], "position 1")
    before = dwte.clone()
    ops.embedding_add(dwte, wte[:2].contiguous(), torch.tensor([0, 2], dtype=torch.int32))
    ops.embedding_add(dwte, wte, torch.tensor([-1] * len(wte), dtype=torch.int32))
    assert_bits_equal(dwte, torch.stack([before[0] + wte[0], before[1], before[2] + wte[1]]), "added")
