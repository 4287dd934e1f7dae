"""Scalars, orders of sums and random numbers of docs/numerics.md, for the independent implementation (independent.py).

Every sum is a Python loop over its terms in the order of the page; what NumPy vectorises are independent elements.
NumPy's binary32 + - * / sqrt are IEEE's; the fused multiply-add is made of binary64 operations, rounded to odd before
the last rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

F: TypeAlias = np.float32
D, U32, U64 = np.float64, np.uint32, np.uint64
Array = np.ndarray[Any, Any]


# ---------------------------------------------------------------------------------------------------------- primitives


def fma(a: Any, b: Any, c: Any) -> Array:
    """a * b + c rounded once: the product is exact in binary64, the sum is TwoSum rounded to odd, then to binary32."""
    product, c = np.asarray(a, D) * np.asarray(b, D), np.asarray(c, D)
    total = np.asarray(product + c)
    back = total - product
    error = (product - (total - back)) + (c - back)
    bits = total.view(np.int64)
    away = np.where((error > 0) == (total > 0), 1, -1)  # towards the exact value: a larger or a smaller magnitude
    return np.where((error != 0) & ((bits & 1) == 0), bits + away, bits).view(D).astype(F)


def chain(start: Any, terms: Iterable[tuple[Any, Any]]) -> Array:
    """s = fma(a, b, s) over the terms in order."""
    for a, b in terms:
        start = fma(a, b, start)
    return np.asarray(start, F)


def row_reduction(n: int, step: Callable[..., Array], shape: tuple[int, ...]) -> Array:
    """32 partials, each a chain over every 32nd value, then folded by 16, 8, 4, 2, 1."""
    partials = [np.zeros(shape, F) for _ in range(32)]
    for i in range(n):
        partials[i % 32] = step(partials[i % 32], i)
    for width in (16, 8, 4, 2, 1):
        for j in range(width):
            partials[j] = partials[j] + partials[j + width]
    return partials[0]


def pairwise(values: list[Array]) -> Array:
    while len(values) > 1:
        pairs = [values[i] + values[i + 1] for i in range(0, len(values) - 1, 2)]
        values = pairs + (values[-1:] if len(values) % 2 else [])
    return values[0]


def horner(x: Array, *coefficients: str) -> Array:
    value = np.full_like(x, F(float.fromhex(coefficients[0])))
    for coefficient in coefficients[1:]:
        value = fma(value, x, F(float.fromhex(coefficient)))
    return value


def h(text: str) -> F:
    return F(float.fromhex(text))


# ------------------------------------------------------------------------------------------------ elementary functions


def exp(x: Array) -> Array:
    x = np.minimum(np.maximum(x, F(-104)), F(89))
    n = fma(x, h("0x1.715476p0"), F(12582912)) - F(12582912)
    r = fma(n, h("-0x1.7f7d1cp-20"), fma(n, h("-0x1.62e4p-1"), x))
    p = horner(r, "0x1.a0d2cep-13", "0x1.6e879cp-10", "0x1.11121p-7", "0x1.555382p-5", "0x1.555554p-3", "0x1p-1")
    p = fma(p, r * r, r) + F(1)
    k = n.astype(np.int32)
    half = k >> 1
    return (p * np.ldexp(F(1), half)) * np.ldexp(F(1), k - half)


def log(x: Array) -> Array:
    """Of x > 0."""
    small = x < h("0x1p-126")
    x = np.where(small, x * h("0x1p23"), x)
    bits = x.view(np.int32) - np.int32(0x3F3504F3)
    e = ((bits >> 23) - np.where(small, 23, 0)).astype(F)
    f = ((bits & 0x7FFFFF) + np.int32(0x3F3504F3)).astype(np.int32).view(F) - F(1)
    z = f * f
    p = horner(f, "0x1.204376p-4", "-0x1.d7a37p-4", "0x1.de4a34p-4", "-0x1.fcba9ep-4", "0x1.23d37ep-3", "-0x1.555cap-3",
               "0x1.999d58p-3", "-0x1.fffff8p-3", "0x1.555554p-2")  # fmt: skip
    p = fma(z, F(-0.5), fma(e, h("-0x1.bd0106p-13"), (p * f) * z))
    return fma(e, h("0x1.63p-1"), f + p)


def cos_sin(u: Array) -> tuple[Array, Array]:
    """Of a turn in [0, 1)."""
    q = (u * F(4) + F(0.5)).astype(np.int32)
    t = fma(q.astype(F), F(-0.25), u) * h("0x1.921fb6p2")
    z = t * t
    sine = fma(horner(z, "-0x1.9943f2p-13", "0x1.11073cp-7", "-0x1.555546p-3") * z, t, t)
    cosine = horner(z, "0x1.99eb9cp-16", "-0x1.6c0c34p-10", "0x1.55554ap-5")
    cosine = fma(cosine * z, z, fma(z, F(-0.5), F(1)))
    odd = (q & 1) == 1
    cosine, sine = np.where(odd, sine, cosine), np.where(odd, cosine, sine)
    return np.where((q + 1) & 2, -cosine, cosine), np.where(q & 2, -sine, sine)


def gelu_parts(x: Array) -> tuple[Array, Array, Array]:
    held = np.minimum(np.maximum(x, F(-16)), F(16))
    square = held * held
    return held, square, F(1) + exp(held * fma(h("-0x1.2444f2p-4"), square, h("-0x1.988454p0")))


def gelu(x: Array) -> Array:
    return x / gelu_parts(x)[2]


def gelu_derivative(x: Array) -> Array:
    held, square, denominator = gelu_parts(x)
    s = F(1) / denominator
    return fma((held * s) * (F(1) - s), fma(h("0x1.b6676cp-3"), square, h("0x1.988454p0")), s)


# ------------------------------------------------------------------------------------------------------ random numbers


def philox(seed: int, stream: int, first_block: int, blocks: int) -> Array:
    """Words of blocks of Philox4x32-10, flat."""
    mask, multipliers = U64(0xFFFFFFFF), (U64(0xD2511F53), U64(0xCD9E8D57))
    block = U64(first_block) + np.arange(blocks, dtype=U64)
    c = [block & mask, block >> U64(32), np.full(blocks, stream, U64), np.zeros(blocks, U64)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p, q = multipliers[0] * c[0], multipliers[1] * c[2]
        c = [(q >> U64(32)) ^ c[1] ^ U64(key[0]), q & mask, (p >> U64(32)) ^ c[3] ^ U64(key[1]), p & mask]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=1).reshape(-1)


def words(seed: int, stream: int, first: int, count: int) -> Array:
    block = first // 4
    return philox(seed, stream, block, (first + count + 3) // 4 - block)[first % 4 :][:count]


def normals(seed: int, first: int, count: int, std: F) -> Array:
    """Numbers first .. first + count - 1 of stream INIT, mean 0."""
    begin, end = first // 2, (first + count + 1) // 2
    w = words(seed, 1, 2 * begin, 2 * (end - begin))
    u = ((w[0::2] >> U64(8)) + U64(1)).astype(F) * h("0x1p-24")
    radius = np.sqrt(F(-2) * log(u))
    cosine, sine = cos_sin((w[1::2] >> U64(8)).astype(F) * h("0x1p-24"))
    both = np.stack([radius * cosine, radius * sine], axis=1).reshape(-1)[first % 2 :][:count]
    return fma(std, both, F(0))
