"""Numbers of the command line: argparse types that know their bounds, so that a slip is one message and no long run."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable

MANY = 1_000_000  # of samples, steps, lines: more is a slip
MOST_THREADS = 1024


def whole(least: int, most: int = MANY) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise ArgumentTypeError(f"{text}: expected a whole number from {least:,} to {most:,}")
        return number

    return read


def real(least: float = 0.0, most: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """A finite number from `least`, or above it, to `most`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most) or (above and number == least):
            until = f", at most {most:g}" if math.isfinite(most) else ""
            raise ArgumentTypeError(f"{text}: expected a number {'above' if above else 'from'} {least:g}{until}")
        return number

    return read
