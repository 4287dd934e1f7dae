"""Files that are either whole or absent: written beside their place, synced, renamed.

An unfinished file has a name that nobody can guess and belongs to the process that holds its lock (flock), on
whatever machine or in whatever container; where its lock is free its writer is gone, and the next writer of that
path removes it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cuda_ops.errors import UserError, refusal

UNFINISHED = re.compile(r"\..*\.[0-9a-f]{32}\.tmp")
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of a file system that has none


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` only when the block ends well; an earlier file stays until then.

    A full or read-only disk, a name that is too long and the like are UserErrors that name the path; the unfinished file
    is removed, and so is one that a killed process left.
    """
    temporary: Path | None = None
    try:
        with refused(path):
            descriptor, temporary = _begin(path)
        with refused(path, temporary), os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            _publish(file.fileno(), temporary, path)
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


class Growing:
    """A file that grows beside its place, unbuffered, so that what its disk refuses is said at the write that it refuses.

    It appears at `path` by publish(); an earlier file stays until then, and for good after discard().
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with refused(path):
            self._descriptor, self._temporary = _begin(path)

    def write(self, content: bytes) -> None:
        left = memoryview(content)
        with refused(self.path, self._temporary):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def sync(self) -> None:
        with refused(self.path, self._temporary):
            os.fsync(self._descriptor)

    def publish(self) -> None:
        with refused(self.path, self._temporary):
            _publish(self._descriptor, self._temporary, self.path)
        self.discard()

    def discard(self) -> None:
        if self._descriptor >= 0:
            self._temporary.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def refused(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """What the disk refuses of `path`, or of the unfinished file beside it, as a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        ours = error.filename in (None, str(path), str(path.parent), str(temporary)) or temporary is None
        words = refusal(error, path) if ours else None
        if words is None:
            raise
        raise UserError(f"{words}. Nothing earlier was lost") from None


def _begin(path: Path) -> tuple[int, Path]:
    """A new unfinished file for `path`, after those that are left of dead writers are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    return _create(path)


def _publish(descriptor: int, temporary: Path, path: Path) -> None:
    """Put a finished file in its place, still locked: until here nobody may take it for a dead writer's."""
    os.fsync(descriptor)
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _stem(path: Path) -> str:
    """The path's name, cut so that an unfinished file's longer name fits where it fits."""
    return os.fsdecode(os.fsencode(path.name)[:100])


def _create(path: Path) -> tuple[int, Path]:
    """A new unfinished file for `path`, locked: its descriptor and its path."""
    if len(os.fsencode(path.name)) > os.pathconf(path.parent, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))  # now, not after all is written
    while True:
        temporary = path.with_name(f".{_stem(path)}.{secrets.token_hex(16)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if _lock(descriptor) and os.path.samestat(os.fstat(descriptor), os.stat(temporary)):
                return descriptor, temporary
        except FileNotFoundError:
            pass
        os.close(descriptor)  # between creation and lock another writer took it for a dead one's, and removed it


def _lock(descriptor: int, without: bool = True) -> bool:
    """Whether the lock of a file is now ours; `without` is the answer where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return without
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def remove_unfinished(path: Path) -> None:
    """Remove what writers that are gone had begun to write for `path`: what no process holds the lock of."""
    for stale in path.parent.glob(f".{glob.escape(_stem(path))}.*.tmp"):
        remove_if_unfinished(stale)


def remove_if_unfinished(path: Path) -> None:
    """Remove one file if it has an unfinished file's name and no living writer."""
    if not UNFINISHED.fullmatch(path.name):
        return
    with suppress(OSError):  # gone already, a link, not ours to open
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if _lock(descriptor, without=False) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                path.unlink()
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Canonical JSON: sorted keys, two spaces, UTF-8, a newline at the end."""
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
