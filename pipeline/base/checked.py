"""Files that a stage reads, checked against the digest that was recorded when they were written.

A large file is read through once per change: its size, times and inode at the last check lie beside it in .<name>.checked.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from cuda_ops.errors import UserError
from pipeline.base.files import sha256_of, write_bytes

LARGE = 1 << 24  # bytes from which a check is remembered; less is read again in milliseconds


def _mark(path: Path, sha256: str) -> str:
    """What is remembered of a checked file: any write, copy or replacement of it changes one of these."""
    stat = path.stat()
    seen = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns, "inode": stat.st_ino}
    return json.dumps(seen | {"sha256": sha256}, sort_keys=True) + "\n"


def _sidecar(path: Path) -> Path:
    return path.with_name(f".{path.name}.checked")


def remember(path: Path, sha256: str) -> None:
    """Note that the file has this digest, by whoever has just written or read all of it."""
    if path.stat().st_size < LARGE:
        return
    with suppress(OSError, UserError):  # a full or read-only disk: the next check reads the file again
        write_bytes(_sidecar(path), _mark(path, sha256).encode())


def _remembered(path: Path, sha256: str) -> bool:
    try:
        return _sidecar(path).read_bytes() == _mark(path, sha256).encode()
    except OSError:
        return False


def checked(path: Path, sha256: str, remedy: str, always: bool = False) -> Path:
    """`path`, if its content has this SHA-256; else a UserError with the remedy.

    always: read it through even if nothing seems changed since the last check, as verification does.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; {remedy}")
    if not always and _remembered(path, sha256):
        return path
    before = _mark(path, sha256)
    found = sha256_of(path)
    if found != sha256:
        raise UserError(f"{path}: changed since it was written: sha256 {found}, recorded is {sha256}; {remedy}")
    if _mark(path, sha256) == before:  # nobody wrote while it was read
        remember(path, sha256)
    return path
