"""pytest tests/ops/test_fingerprint.py

The fingerprint: a bit, a swap and no sharding.
"""

from __future__ import annotations

import torch

from cuda_ops import ops


def test_fingerprint_sees_a_bit_a_swap_and_no_sharding() -> None:
    x = torch.randn(100_003)
    whole = ops.fingerprint(x)
    assert (ops.fingerprint(x[:777]) + ops.fingerprint(x[777:], 777)) % 2**64 == whole
    words = x.view(torch.int32)
    words[5] ^= 1
    assert ops.fingerprint(x) != whole
    words[5] ^= 1
    x[[3, 99_000]] = x[[99_000, 3]]
    assert ops.fingerprint(x) != whole
    x[[3, 99_000]] = x[[99_000, 3]]
    assert ops.fingerprint(x) == whole
