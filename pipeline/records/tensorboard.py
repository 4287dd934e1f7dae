"""Scalars as TensorBoard's event files, without TensorBoard: records of a length, its CRC, a protocol buffer, its CRC.

Formats: tensorflow/core/lib/io/record_writer.h and event.proto. CRC-32C (Castagnoli), masked as there.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from cuda_ops.errors import writing

TABLE = []
for _n in range(256):
    for _ in range(8):
        _n = (_n >> 1) ^ (0x82F63B78 if _n & 1 else 0)
    TABLE.append(_n)


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(n: int) -> bytes:
    found = b""
    while n > 0x7F:
        found, n = found + bytes([n & 0x7F | 0x80]), n >> 7
    return found + bytes([n])


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


class Events:
    """An event file in a folder; begins with the version that TensorBoard looks for."""

    def __init__(self, folder: Path, name: str, at: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = open(folder / f"events.out.tfevents.{int(at)}.{name}", "wb")  # noqa: SIM115
        self._record(struct.pack("<Bd", 1 << 3 | 1, at) + _field(3, b"brain.Event:2"))

    def add(self, tag: str, value: float, step: int, at: float) -> None:
        """One scalar of a step; at: Unix time."""
        scalar = _field(1, tag.encode()) + struct.pack("<Bf", 2 << 3 | 5, value)
        event = struct.pack("<Bd", 1 << 3 | 1, at) + bytes([2 << 3]) + _varint(step) + _field(5, _field(1, scalar))
        self._record(event)

    def _record(self, content: bytes) -> None:
        length = struct.pack("<Q", len(content))
        with writing(Path(self._file.name)):
            self._file.write(length + _masked(length) + content + _masked(content))
            self._file.flush()

    def close(self) -> None:
        self._file.close()
