"""chain.tsv: one line per step, each linked to the line before by SHA-256.

Columns: step, loss (nats per token), lr, norm (of the gradient before clipping), fingerprint (of all parameters after the step),
link. Floats are written as hex, so that no bit is lost. Two runs agree up to a step if their links there are equal.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base.files import write_bytes

HEADER = "step\tloss\tlr\tnorm\tfingerprint\tlink"
START = "0" * 64  # the link before the first line


@dataclass(frozen=True)
class Line:
    step: int
    loss: float
    lr: float
    norm: float
    fingerprint: int
    link: str = ""

    def content(self) -> str:
        return f"{self.step}\t{self.loss.hex()}\t{self.lr.hex()}\t{self.norm.hex()}\t{self.fingerprint:016x}"

    def linked(self, previous: str) -> Line:
        link = hashlib.sha256(f"{previous}\t{self.content()}".encode()).hexdigest()
        return Line(self.step, self.loss, self.lr, self.norm, self.fingerprint, link)


def row(line: Line) -> bytes:
    return f"{line.content()}\t{line.link}\n".encode()


def whole(lines: list[Line]) -> bytes:
    """A chain's file."""
    return b"".join([f"{HEADER}\n".encode(), *map(row, lines)])


def write(path: Path, lines: list[Line]) -> None:
    write_bytes(path, whole(lines))


def read(path: Path) -> list[Line]:
    """The lines of a chain; a UserError names the first one that cannot be read."""
    lines, damage = readable(path)
    if damage:
        raise UserError(damage)
    return lines


def readable(path: Path) -> tuple[list[Line], str]:
    """The lines of a chain before the first one that cannot be read, and what is wrong with that, or nothing."""
    if not path.exists():
        raise UserError(f"{path}: no such chain")
    rows = path.read_text(encoding="ascii", errors="replace").splitlines()
    lines: list[Line] = []
    if not rows or rows[0] != HEADER:
        return lines, f"{path}: line 1 is not the header of a chain"
    for number, row in enumerate(rows[1:], 2):
        try:
            step, loss, lr, norm, fingerprint, link = row.split("\t")
            if not re.fullmatch("[0-9a-f]{64}", link):  # cut off
                raise ValueError
            values = [float.fromhex(x) for x in (loss, lr, norm)]
            lines.append(Line(int(step), values[0], values[1], values[2], int(fingerprint, 16), link))
        except ValueError:
            return lines, f"{path}: line {number} is not a line of a chain: {row!r}"
    return lines, ""


def check(lines: list[Line], previous: str, path: Path) -> str:
    """Follow the links from `previous`; returns the last. A UserError names the first step that does not follow."""
    for line in lines:
        if line.linked(previous).link != line.link:
            raise UserError(f"{path}: step {line.step} does not follow from the line before: the chain was altered")
        previous = line.link
    return previous
