"""pytest tests/ops/test_layernorm.py

LayerNorm against its scalar specification and float64 gradients; what continues a chain, whole or in pieces.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import ops
from tests.bits import F, assert_bits_equal, fma, fold, hostile

channels = st.sampled_from([1, 2, 5, 31, 32, 33, 64, 100, 300])
tokens = st.sampled_from([1, 2, 31, 32, 33, 70])


def layernorm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    out, mean, rstd = torch.empty_like(x), torch.empty(x.shape[:-1]), torch.empty(x.shape[:-1])
    ops.layernorm_forward(out, mean, rstd, x, weight, bias)
    return out, mean, rstd


@pytest.mark.parametrize("c", [1, 5, 32, 50, 257, 1030])
def test_layernorm_is_its_specification(c: int) -> None:
    x, weight, bias = hostile(2, c, seed=c).clamp(-9, 9), torch.randn(c), torch.randn(c)
    out, mean, rstd = layernorm(x, weight, bias)
    for n in range(2):
        row, w, b = x[n].numpy(), weight.numpy(), bias.numpy()
        m = F(fold(c, lambda p, i, row=row: F(p + row[i])) / F(c))
        variance = F(fold(c, lambda p, i, row=row, m=m: fma(row[i] - m, row[i] - m, p)) / F(c))
        r = F(1) / np.sqrt(F(variance + F(1e-5)))
        y = np.array([fma((row[i] - m) * r, w[i], b[i]) for i in range(c)], dtype=np.float32)
        assert (mean[n].item(), rstd[n].item()) == (float(m), float(r))
        assert_bits_equal(out[n], torch.from_numpy(y), f"row {n}")


@given(st.integers(1, 3), tokens, channels)
def test_layernorm_gradients_agree_with_float64(b: int, t: int, c: int) -> None:
    x, weight, bias = torch.randn(b, t, c), torch.randn(c), torch.randn(c)
    dout, dresidual = torch.randn(b, t, c), torch.randn(b, t, c)
    _, mean, rstd = layernorm(x, weight, bias)
    dinp, dweight, dbias = torch.empty_like(x), torch.ones(c), torch.ones(c)
    ops.layernorm_backward(dinp, dweight, dbias, dout, dresidual, x, weight, mean, rstd)
    exact = [v.double().requires_grad_() for v in (x, weight, bias)]
    functional.layer_norm(exact[0], (c,), exact[1], exact[2], 1e-5).backward(dout.double())
    gradients = [v.grad for v in exact if v.grad is not None]
    scale = 1 + rstd.max().item()
    torch.testing.assert_close(dinp.double(), gradients[0] + dresidual.double(), rtol=1e-4, atol=2e-6 * scale * scale)
    torch.testing.assert_close(dweight.double(), gradients[1] + 1, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dbias.double(), gradients[2] + 1, rtol=1e-4, atol=1e-4)


@given(st.sampled_from([(8,), (4, 4), (1,) * 8, (5, 3), (3, 5)]), tokens, channels)
def test_micro_batches_continue_the_parameter_gradients(split: tuple[int, ...], t: int, c: int) -> None:
    """LayerNorm, bias and embedding gradients of 8 sequences, whole or in pieces."""
    b = sum(split)
    generator = torch.Generator().manual_seed(t * c)
    x, dout = torch.randn(b, t, c, generator=generator), torch.randn(b, t, c, generator=generator)
    weight, ids = torch.randn(c), torch.randint(0, 6, (b, t), generator=generator, dtype=torch.int32)
    _, mean, rstd = layernorm(x, weight, weight)
    results = []
    for parts in ((b,), split):
        grads = [torch.zeros(c), torch.zeros(c), torch.zeros(c), torch.zeros(6, c), torch.zeros(t, c)]
        first = 0
        for size in parts:
            s = slice(first, first + size)
            first += size
            ops.layernorm_backward(
                torch.empty_like(x[s]), grads[0], grads[1], dout[s], None, x[s], weight, mean[s], rstd[s]
            )
            ops.bias_backward(grads[2], dout[s])
            ops.embedding_backward(grads[3], grads[4], dout[s], ids[s].contiguous())
        results.append(grads)
    for whole, pieces, name in zip(*results, ("ln weight", "ln bias", "bias", "wte", "wpe"), strict=True):
        assert_bits_equal(pieces, whole, name)
