"""pytest tests/ops/test_adamw.py

AdamW against its scalar specification and PyTorch; a step that is not finite changes nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from cuda_ops import ops
from tests.bits import F, assert_bits_equal, fma, hostile


def test_adamw_is_its_specification_and_close_to_pytorch() -> None:
    p, g = hostile(300), torch.randn(300)
    m, v = torch.randn(300).abs() * 0.1, torch.rand(300) * 0.1
    lr, b1, b2, eps, wd, scale, step = 1e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, 7
    c1, c2 = 1 - b1**step, 1 - b2**step
    got = [x.clone() for x in (p, m, v)]
    ops.adamw(got[0], got[1], got[2], g, torch.tensor([scale]), torch.tensor([lr, c1, c2]), b1, b2, eps, wd)
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
        torch.tensor([float("nan")]),
        torch.tensor([1e-3, 0.1, 0.05]),
        0.9,
        0.95,
        1e-8,
        0.1,
    )
    for a, b in zip(after, before, strict=True):
        assert_bits_equal(a, b)
