"""Room on disks, asked for before hours of work need it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from cuda_ops.errors import REFUSALS, UserError


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def amount(size: int) -> str:
    """Bytes in decimal units, as disks count."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"


def lacking(needs: Mapping[Path, int]) -> str | None:
    """What is missing for so many bytes in each folder, or None; folders of one file system share its room."""
    wanted: dict[int, int] = {}
    at: dict[int, Path] = {}
    for folder, size in needs.items():
        place = _existing(folder)
        device = os.stat(place).st_dev
        wanted[device] = wanted.get(device, 0) + size
        at.setdefault(device, place)
    for device, size in wanted.items():
        free = shutil.disk_usage(at[device]).free
        if free < size:
            return f"{at[device]} has {amount(free)} free, {amount(size)} are needed"
    return None


def check_writable(folders: Iterable[Path], remedy: str) -> None:
    """A UserError where a folder, or the one that it would be made in, cannot be written to."""
    for folder in folders:
        place = _existing(folder)
        if not place.is_dir():
            raise UserError(f"{place}: {REFUSALS[errno.ENOTDIR]}; {remedy}")
        if not os.access(place, os.W_OK | os.X_OK):
            read_only = os.statvfs(place).f_flag & os.ST_RDONLY
            raise UserError(f"{place}: {REFUSALS[errno.EROFS if read_only else errno.EACCES]}; {remedy}")


def check_outputs(files: Iterable[Path | None]) -> None:
    """A UserError where a file could not be written, said before what is to stand in it is worked out."""
    for file in filter(None, files):
        if file.is_dir():
            raise UserError(f"{file}: {REFUSALS[errno.EISDIR]}; name a file")
        check_writable([file.parent], "name another file")


def check_run(run: Path | None) -> None:
    """A UserError where --run names no folder."""
    if run and not run.is_dir():
        raise UserError(f"--run {run}: no such folder; expected that of a run, as results/runs/<recipe>")


def check_room(needs: Mapping[Path, int], what: str, remedy: str) -> None:
    """A UserError where the disks have no room for what is to come."""
    missing = lacking(needs)
    if missing:
        raise UserError(f"no room for {what}: {missing}; {remedy}")
