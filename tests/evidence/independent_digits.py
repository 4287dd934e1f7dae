"""Products and attention in digits for the independent implementation, from docs/numerics.md alone: NumPy.

Integers are summed in float64, where these sums are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.evidence.independent import Gpt, Tensors
from tests.evidence.independent_arithmetic import Array, F, chain, exp, fma

BLOCK = 128
D = np.float64


def exponents(x: Array) -> Array:
    """E of the largest magnitude along the last axis, kept as an axis of 1."""
    m = np.abs(x).max(axis=-1, keepdims=True)
    return np.maximum(np.frexp(m)[1], -100)


def cut(x: Array, e: Array, tier: str) -> tuple[Array, Array]:
    y = np.ldexp(x.astype(D), 7 - e)
    hi = np.clip(np.rint(y), -127, 127)
    lo = np.clip(np.rint((y - hi) * 256), -127, 127) if tier == "int8x3" else np.zeros_like(y)
    return hi, lo


def join(a: tuple[Array, Array], b: tuple[Array, Array], ea: Any, eb: Any, tier: str, s: Array) -> Array:
    """a [..., M, k], b [..., N, k] with exponents that fit s [..., M, N]."""

    def sums(x: Array, y: Array) -> Array:
        return np.matmul(x, np.swapaxes(y, -1, -2))

    shift = 11 if tier == "int8x3" else 7
    t = sums(a[0], b[0]).astype(F)
    if tier == "int8x3":
        t = fma(t, F(256), (sums(a[0], b[1]) + sums(a[1], b[0])).astype(F))
    left, right = (np.ldexp(F(1), np.asarray(e) - shift).astype(F) for e in (ea, eb))
    return fma(t * left, right, s)


def rows(a: Array, b: Array, tier: str, s: Array, whole: bool = False) -> Array:
    """s += a b^T over the last axis in blocks; whole: one exponent for a row, not for each of its blocks."""
    of = {name: exponents(x) for name, x in (("a", a), ("b", b))}
    for first in range(0, a.shape[-1], BLOCK):
        x, y = a[..., first : first + BLOCK], b[..., first : first + BLOCK]
        ea, eb = (of["a"], of["b"]) if whole else (exponents(x), exponents(y))
        s = join(cut(x, ea, tier), cut(y, eb, tier), ea, np.swapaxes(eb, -1, -2), tier, s)
    return s


def over_tokens(w: Array, x: Array, tier: str) -> Array:
    """[..., R, D] = the sum over t of w[..., R, t] x[..., t, D]; weights of tokens outside a sum are 0."""
    e = exponents(x)
    digits, f = cut(x, e, tier), w * np.swapaxes(np.ldexp(F(1), e - 7).astype(F), -1, -2)
    s = np.zeros((*w.shape[:-1], x.shape[-1]), F)
    for first in range(0, w.shape[-1], BLOCK):
        block = f[..., first : first + BLOCK]
        part = tuple(np.swapaxes(d[..., first : first + BLOCK, :], -1, -2) for d in digits)
        ef = exponents(block)
        s = join(cut(block, ef, tier), (part[0], part[1]), ef, 7, tier, s)
    return s


class DigitsGpt(Gpt):
    """A Gpt whose products are in digits."""

    def __init__(self, model: dict[str, int], weights: Tensors, tier: str) -> None:
        super().__init__(model, weights)
        self.tier = tier

    def linear(self, x: Array, w: Array, bias: Array | None = None) -> Array:
        out = rows(x, w, self.tier, np.zeros((len(x), len(w)), F))
        return out if bias is None else out + bias

    def transposed(self, dout: Array, w: Array) -> Array:
        return self.linear(dout, np.ascontiguousarray(w.T))

    def weight_gradient(self, start: Array, dout: Array, x: Array) -> Array:
        for first in range(0, len(x), self.T):
            sequence = slice(first, first + self.T)
            start = rows(dout[sequence].T, x[sequence].T, self.tier, start)
        return start

    def attention(self, qkv: Array) -> tuple[Array, Array]:
        q, k, v = self.heads(qkv)
        seen = np.tri(self.T, dtype=bool)
        zeros = np.zeros((*q.shape[:2], self.T, self.T), F)
        s = np.where(seen, rows(q, k, self.tier, zeros, whole=True) * self.scale, F(-np.inf))
        e = np.where(seen, exp(s - s.max(axis=-1, keepdims=True)), F(0))
        total = np.zeros(q.shape[:3], F)
        for j in range(self.T):
            total[..., j:] = total[..., j:] + e[..., j:, j]
        inverse = (F(1) / total)[..., None]
        out = over_tokens(e, v, self.tier) * inverse
        return out.transpose(0, 2, 1, 3).reshape(-1, self.C), e * inverse

    def attention_backward(self, dout: Array, out: Array, p: Array, qkv: Array) -> Array:
        q, k, v = self.heads(qkv)
        size = self.C // self.H
        do, o = (a.reshape(-1, self.T, self.H, size).transpose(0, 2, 1, 3) for a in (dout, out))
        delta = chain(np.zeros(do.shape[:3], F), ((do[..., d], o[..., d]) for d in range(size)))
        ds = p * (rows(do, v, self.tier, np.zeros_like(p), whole=True) - delta[..., None])
        dq = over_tokens(ds, k, self.tier) * self.scale
        dk = over_tokens(np.swapaxes(ds, -1, -2), q, self.tier) * self.scale
        dv = over_tokens(np.swapaxes(p, -1, -2), do, self.tier)
        return np.stack([dq, dk, dv]).transpose(1, 3, 0, 2, 4).reshape(-1, 3 * self.C)
