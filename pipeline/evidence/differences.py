"""How two tensors, chains, recipes or lists of digests differ: the first place, both values, how far apart, how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.base.chain import Line
from pipeline.evidence.trace import Seen

COLUMNS = ("loss", "lr", "norm", "fingerprint")


@dataclass
class Difference:
    """Of two tensors. index: of the first element that differs; ulps: the distance there, None for integers; sampled: not all were seen."""

    name: str
    index: tuple[int, ...]
    values: tuple[float, float]
    bits: tuple[str, str]
    ulps: int | None
    most_ulps: int | None
    count: int
    size: int
    relative: float
    sampled: bool = False

    def words(self) -> str:
        far = "" if self.ulps is None else f", {self.ulps} ulp apart (at most {self.most_ulps})"
        among = f"{self.count} of {self.size}" + (" sampled" if self.sampled else "")
        a, b = self.values
        return f"{self.name}[{', '.join(map(str, self.index))}]: {a!r} ({self.bits[0]}) and {b!r} ({self.bits[1]}){far}; {among} elements differ"


def ordered(values: NDArray[Any]) -> NDArray[np.int64]:
    """fp32 values as integers whose differences are distances in ulps; -0 and +0 are one apart, so that no change is 0."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits)


def difference(
    name: str, a: Tensor, b: Tensor, shape: tuple[int, ...] | None = None, stride: int = 1
) -> Difference | None:
    """The difference of two tensors of one shape by their bits, or None. shape, stride: of the tensor they are a sample of."""
    x, y = (t.contiguous().view(-1).numpy() for t in (a, b))
    raw_x, raw_y = (v.view(np.uint32) if v.itemsize == 4 else v for v in (x, y))
    where = np.flatnonzero(raw_x != raw_y)
    if not len(where):
        return None
    at = int(where[0])
    real = x.dtype == np.float32
    far = np.abs(ordered(x[where]) - ordered(y[where])) if real else None
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    scale = max(float(np.sqrt(np.mean(wide_x**2))), float(np.sqrt(np.mean(wide_y**2))), 1e-300)
    return Difference(
        name, tuple(int(i) for i in np.unravel_index(at * stride, shape or tuple(a.shape))), (x[at].item(), y[at].item()),
        (f"{int(raw_x[at]):08x}", f"{int(raw_y[at]):08x}"), None if far is None else int(far[0]),
        None if far is None else int(far.max()), len(where), x.size,
        float(np.sqrt(np.mean((wide_x - wide_y) ** 2))) / scale, stride > 1,
    )  # fmt: skip


def between(a: list[Seen], b: list[Seen]) -> tuple[list[Difference], list[str]]:
    """The tensors of two traces that differ, in A's order of computation, and what else is to be said of the two lists."""
    others = {seen.name: seen for seen in b}
    found, notes = [], []
    for seen in a:
        other = others.get(seen.name)
        if other is None or other.shape != seen.shape:
            shown = "absent" if other is None else f"of shape {list(other.shape)}"
            notes.append(f"{seen.name} has shape {list(seen.shape)} in A and is {shown} in B")
        elif seen.sha256 != other.sha256:
            both = seen.sample.shape == other.sample.shape  # of a file that was cut off there may be none
            part = difference(seen.name, seen.sample, other.sample, seen.shape, seen.stride) if both else None
            size = seen.sample.numel()
            nan = float("nan")
            found.append(part or Difference(seen.name, (), (nan, nan), ("", ""), None, None, 0, size, 0.0, True))
    shared_a, shared_b = (
        [s.name for s in side if s.name in {o.name for o in b} & {o.name for o in a}] for side in (a, b)
    )
    if shared_a != shared_b:
        x, y = next((x, y) for x, y in zip(shared_a, shared_b, strict=True) if x != y)
        notes.append(f"the order of computation differs: A computes {x} where B computes {y}")
    return found, notes


def first_line(a: dict[int, Line], b: dict[int, Line]) -> tuple[int, list[str]] | None:
    """The first common step whose lines differ, and the columns that do; ['link'] if only earlier lines can have."""
    for step in sorted(set(a) & set(b)):
        columns = [name for name in COLUMNS if getattr(a[step], name) != getattr(b[step], name)]
        if columns or a[step].link != b[step].link:
            return step, columns or ["link"]
    return None


def broken_link(lines: dict[int, Line]) -> int | None:
    """The first step whose link does not follow from its content and the line before; only consecutive steps can be checked."""
    for step, line in sorted(lines.items()):
        previous = "0" * 64 if step == 1 else lines[step - 1].link if step - 1 in lines else None
        if previous is not None and line.linked(previous).link != line.link:
            return step
    return None


def keys(a: Any, b: Any, prefix: str = "bits") -> list[str]:
    """The keys of two nested values that differ, each with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [line for key in sorted({*a, *b}) for line in keys(a.get(key), b.get(key), f"{prefix}.{key}")]
    return [] if a == b else [f"{prefix}: {a!r} and {b!r}"]
