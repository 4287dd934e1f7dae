"""pytest tests/ops/test_rows.py

The row and element kernels (LayerNorm, GELU, residual, bias, embedding, cross-entropy, AdamW, norm) against scalar
references in numpy fp32, whose + - * / sqrt are IEEE, and against float64 gradients.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import ops
from tests.bits import F, assert_bits_equal, fma, fold, hostile

channels = st.sampled_from([1, 2, 5, 31, 32, 33, 64, 100])
tokens = st.sampled_from([1, 2, 31, 32, 33, 70])


def unary(x: torch.Tensor, function: str) -> torch.Tensor:
    out = torch.empty_like(x)
    ops.unary(out, x, function)
    return out


def layernorm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    out, mean, rstd = torch.empty_like(x), torch.empty(x.shape[:-1]), torch.empty(x.shape[:-1])
    ops.layernorm_forward(out, mean, rstd, x, weight, bias)
    return out, mean, rstd


@pytest.mark.parametrize("c", [1, 5, 32, 50])
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


def test_bias_gradient_is_its_specification() -> None:
    x, start = hostile(3, 70, 5), torch.randn(5)
    got = start.clone()
    ops.bias_backward(got, x)
    for c in range(5):
        total = F(start[c].item())
        for b in range(3):
            column = x[b, :, c].numpy()
            total = F(total + fold(70, lambda p, i, column=column: F(p + column[i])))
        assert got[c].item() == total


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


def test_elementary_functions_within_their_error() -> None:
    """Against float64 over all exponents: exp and log within 1.5 ulp, sqrt exact, cos and sin of a turn within 1.2e-7."""

    def ulps(got: torch.Tensor, want: torch.Tensor) -> float:
        size = torch.exp2(torch.floor(torch.log2(want.abs())).clamp(-126) - 23)
        return ((got.double() - want) / size).abs().max().item()

    every = torch.arange(0, 2**32, 4099, dtype=torch.int64).to(torch.int32).view(torch.float32)
    x = every[(every.abs() < 88.7) & every.isfinite()]
    inner = x[(x > -87) & (x != 0)]
    assert ulps(unary(inner, "exp"), inner.double().exp()) < 1.5
    positive = every[(every > 0) & every.isfinite() & (every != 1)]
    assert ulps(unary(positive, "log"), positive.double().log()) < 1.5
    assert_bits_equal(unary(positive, "sqrt"), positive.double().sqrt().float(), "sqrt")
    u = torch.arange(0, 2**24, 97).float() * 2**-24
    assert (unary(u, "cos_turn").double() - torch.cos(2 * math.pi * u.double())).abs().max() < 1.2e-7
    assert (unary(u, "sin_turn").double() - torch.sin(2 * math.pi * u.double())).abs().max() < 1.2e-7


def test_elementary_functions_at_their_ends() -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([-inf, -200.0, -103.9, 0.0, -0.0, 88.8, inf, nan])
    assert unary(x, "exp").tolist()[:7] == [0.0, 0.0, 2**-149, 1.0, 1.0, inf, inf]
    assert math.isnan(unary(x, "exp")[7])
    assert unary(torch.tensor([0.0, 1.0, inf]), "log").tolist() == [-inf, 0.0, inf]
    assert unary(torch.tensor([-1.0, nan]), "log").isnan().all()
    far = torch.tensor([-1e30, -20.0, 20.0, 1e30])
    assert unary(far, "gelu").tolist() == [0.0, 0.0, 20.0, F(1e30)]
    assert unary(far, "gelu_derivative").tolist() == [0.0, 0.0, 1.0, 1.0]


def test_gelu_agrees_with_pytorch_and_its_derivative_with_float64() -> None:
    x = torch.linspace(-9, 9, 10001)
    out, dinp = torch.empty_like(x), torch.empty_like(x)
    ops.gelu_forward(out, x)
    exact = x.double().requires_grad_()
    y = functional.gelu(exact, approximate="tanh")
    y.sum().backward()
    torch.testing.assert_close(out.double(), y.detach(), rtol=1e-5, atol=1e-7)
    ops.gelu_backward(dinp, torch.ones_like(x), x)
    torch.testing.assert_close(dinp.double(), exact.grad, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize(("v", "vp"), [(1, 1), (5, 8), (65, 80), (1000, 1024)])
def test_cross_entropy_and_its_gradient(v: int, vp: int) -> None:
    n = 7
    logits = torch.randn(n, vp) * 5
    targets = torch.randint(0, v, (n,), dtype=torch.int32)
    losses, fused_losses, fused = torch.empty(n), torch.empty(n), logits.clone()
    ops.cross_entropy_forward(losses, logits, targets, v)
    ops.cross_entropy_fused(fused_losses, fused, targets, 0.25, v)
    assert_bits_equal(fused_losses, losses, "fused losses")
    exact = logits[:, :v].double().requires_grad_()
    loss = functional.cross_entropy(exact, targets.long(), reduction="none")
    (loss.sum() * 0.25).backward()
    torch.testing.assert_close(losses.double(), loss.detach(), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(fused[:, :v].double(), exact.grad, rtol=1e-5, atol=1e-7)
    assert (fused[:, v:] == 0).all()


def test_cross_entropy_is_its_specification() -> None:
    x = hostile(1, 70).clamp(-20, 20)
    losses = torch.empty(1)
    ops.cross_entropy_forward(losses, x, torch.tensor([3], dtype=torch.int32), 70)
    row = x[0].numpy()
    e = unary(torch.from_numpy(row - row.max()), "exp").numpy()
    total = torch.tensor([fold(70, lambda p, i: F(p + e[i]))])
    assert losses[0].item() == F(unary(total, "log")[0].numpy() - F(row[3] - row.max()))


def test_adamw_is_its_specification_and_close_to_pytorch() -> None:
    p, g = hostile(300), torch.randn(300)
    m, v = torch.randn(300).abs() * 0.1, torch.rand(300) * 0.1
    lr, b1, b2, eps, wd, scale, step = 1e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, 7
    c1, c2 = 1 - b1**step, 1 - b2**step
    got = [x.clone() for x in (p, m, v)]
    ops.adamw(got[0], got[1], got[2], g, torch.tensor([scale, lr, c1, c2]), b1, b2, eps, wd)
    f = {k: F(x) for k, x in {"lr": lr, "b1": b1, "b2": b2, "eps": eps, "wd": wd}.items()}
    i1, i2 = F(1) / F(c1), F(1) / F(c2)
    for i in range(300):
        gi = g[i].numpy() * F(scale)
        mi = fma(f["b1"], m[i], (F(1) - f["b1"]) * gi)
        vi = fma(f["b2"], v[i], ((F(1) - f["b2"]) * gi) * gi)
        update = (mi * i1) / (np.sqrt(vi * i2) + f["eps"])
        pi = fma(-f["lr"], fma(f["wd"], p[i], update), p[i])
        assert [x[i].item() for x in got] == [float(pi), float(mi), float(vi)], i
    param = p.double().requires_grad_()
    optimizer = torch.optim.AdamW([param], lr, (b1, b2), eps, wd)
    param.grad = g.double() * scale
    optimizer.state[param] = {"step": torch.tensor(float(step - 1)), "exp_avg": m.double(), "exp_avg_sq": v.double()}
    optimizer.step()
    torch.testing.assert_close(got[0].double(), param.detach(), rtol=2e-6, atol=2e-6)


def test_adamw_changes_nothing_where_the_step_is_not_finite() -> None:
    before = [torch.randn(50), torch.randn(50), torch.rand(50)]
    after = [x.clone() for x in before]
    ops.adamw(
        after[0],
        after[1],
        after[2],
        torch.randn(50),
        torch.tensor([float("nan"), 1e-3, 0.1, 0.05]),
        0.9,
        0.95,
        1e-8,
        0.1,
    )
    for a, b in zip(after, before, strict=True):
        assert_bits_equal(a, b)


@given(st.floats(0, 2.0**120, width=32), st.floats(0, 2.0**126, width=32), st.floats(2.0**-20, 8, width=32))
def test_clip_is_fp32_arithmetic(loss: float, square: float, clip_norm: float) -> None:
    report, scalars = torch.empty(2), torch.tensor([5.0, 6.0, 7.0, 8.0])
    ops.clip(report, scalars, torch.tensor([loss, square]), 0.1, clip_norm)
    norm = np.sqrt(F(square))
    factor = F(1) if norm <= F(clip_norm) else F(clip_norm) / norm
    assert report.tolist() == [F(loss) * F(0.1), norm]
    assert scalars.tolist() == [factor, 6.0, 7.0, 8.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_clip_marks_what_is_not_finite(bad: float) -> None:
    scalars = torch.zeros(4)
    for totals in ([bad, 1.0], [1.0, bad]):
        ops.clip(torch.empty(2), scalars, torch.tensor(totals), 10.0, 1.0)
        assert scalars[0].isnan().item() == (bad != 3e38 or totals[0] == bad), totals


@given(st.integers(1, 200), st.sampled_from([1, 7, 32, 64]))
def test_norm_is_chunks_then_a_tree(n: int, chunk: int) -> None:
    x = hostile(n, seed=n).clamp(-1e3, 1e3)
    partials, total = torch.empty(-(-n // chunk)), torch.empty(1)
    ops.norm_partials(partials, x, chunk)
    values = x.numpy()
    level = []
    for first in range(0, n, chunk):
        piece = values[first : first + chunk]
        level.append(fold(len(piece), lambda p, i, piece=piece: fma(piece[i], piece[i], p)))
    assert partials.tolist() == level
    ops.tree_sum(total, partials)
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        level = [F(a + b) for a, b in zip(level[0:-1:2], level[1::2], strict=True)] + odd if not odd else [
            *(F(a + b) for a, b in zip(level[0:-2:2], level[1:-1:2], strict=True)), *odd
        ]  # fmt: skip
    assert total.item() == level[0]


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


def test_first_nonfinite_names_the_first() -> None:
    x = torch.zeros(100_000)
    assert ops.first_nonfinite(x) == -1
    x[[99_999, 70_000, 40_000]] = torch.tensor([math.nan, math.inf, -math.inf])
    assert ops.first_nonfinite(x) == 40_000
    for threads in (1, 3):
        ops.set_threads(threads)
        assert ops.first_nonfinite(x) == 40_000


def test_sampling_is_decided_by_order_and_uniform() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -1.0, 99.0]]).repeat(6, 1)  # the last column is padding
    uniforms = torch.tensor([0.0, 0.4, 0.6, 0.999, 0.5, 0.5])
    drawn = torch.empty(6, dtype=torch.int32)
    ops.sample(drawn, logits, uniforms, 4, 1.0, 0)
    assert drawn.tolist() == [1, 1, 2, 3, 2, 2]
    ops.sample(drawn, logits, uniforms, 4, 1.0, 2)
    assert drawn.tolist() == [1, 1, 2, 2, 2, 2]
    ops.sample(drawn, logits, uniforms, 4, 0.0, 0)
    assert drawn.tolist() == [1] * 6


def test_normals_are_normal_and_a_function_of_their_index() -> None:
    x = torch.empty(200_000)
    ops.fill_normal(x, 2**63 + 5, 1, 10, 0.0, 1.0)
    for first, last in ((0, 1), (3, 8), (777, 1000)):
        part = torch.empty(last - first)
        ops.fill_normal(part, 2**63 + 5, 1, 10 + first, 0.0, 1.0)
        assert_bits_equal(part, x[first:last], f"{first} to {last}")
    assert abs(x.double().mean()) < 0.01
    assert abs(x.double().std() - 1) < 0.01
    assert abs((x.abs() < 1).double().mean() - 0.6827) < 0.005
    other = torch.empty(200_000)
    ops.fill_normal(other, 2**63 + 5, 2, 10, 0.0, 1.0)
    assert (other != x).double().mean() > 0.99
