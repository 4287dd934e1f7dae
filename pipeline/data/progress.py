"""How far a long preparation is, for people: a bar on a terminal, elsewhere a line a file or every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

EVERY = 10.0  # seconds


def counted(count: int, what: str) -> Iterator[int]:
    """0 to count - 1, one after another."""
    from tqdm import tqdm

    said = time.monotonic()
    for i in (bar := tqdm(range(count), desc=what, disable=None)):
        yield i
        if bar.disable and time.monotonic() - said > EVERY:
            said = time.monotonic()
            print(f"{what}: {i + 1:,} of {count:,}", file=sys.stderr, flush=True)


class Progress:
    """sizes: bytes by file, in order; files, tokens: those that an earlier process did. Time left is by bytes done here."""

    def __init__(self, sizes: dict[str, int], files: int, tokens: int) -> None:
        from tqdm import tqdm

        self._names, self._sizes, self._file = list(sizes), list(sizes.values()), files
        self._total, self._before = sum(self._sizes), sum(self._sizes[:files])
        self._done, self._tokens, self._began = self._before, tokens, time.monotonic()
        self._first = tokens
        if 0 < files < len(self._names):
            print(f"{files} of {len(self._names)} files were tokenised before: going on after them", file=sys.stderr)
        self._bar = tqdm(total=self._total, initial=self._before, unit="B", unit_scale=True, disable=None)
        self._name()

    def _name(self) -> None:
        if self._file < len(self._names):
            self._bar.set_description(f"{Path(self._names[self._file]).name} ({self._file + 1}/{len(self._names)})")

    def add(self, weight: int, tokens: int, ends: bool) -> None:
        """So many bytes more; tokens: in all; ends: the file does."""
        self._done += weight
        self._bar.update(weight)
        if ends:
            if self._bar.disable and len(self._names) > 1:
                print(self.line(tokens), file=sys.stderr, flush=True)
            self._file += 1
            self._name()

    def line(self, tokens: int) -> str:
        """File, number, tokens so far, rate, time left."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        left = seconds * (self._total - self._done) / max(self._done - self._before, 1)
        rate = (tokens - self._first) / seconds
        return (
            f"{self._names[self._file]}: {self._file + 1} of {len(self._names)}, {tokens:,} tokens, {rate / 1e6:.1f} M/s, "
            f"{left / 60:.0f} min left"
        )

    def close(self) -> None:
        self._bar.close()
