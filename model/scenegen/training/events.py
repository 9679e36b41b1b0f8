"""Scalars as TensorBoard reads them: an event file, written without TensorBoard.

A file is a run of records (length, its checksum, content, its checksum), each content an `Event` of TensorBoard's
protocol buffers; of these only what scalars take is written. Knows nothing about training.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_CASTAGNOLI = 0x82F63B78


def _table() -> tuple[int, ...]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_CASTAGNOLI if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_TABLE = _table()


class EventFile:
    """An event file that grows. What was in a file of that name is replaced; its name must hold `tfevents`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(_record(_double(1, time.time()) + _bytes(3, b"brain.Event:2")))

    def append(self, prefix: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Add rows, each a step ("step") and its scalars; curves are named prefix/name."""
        records = []
        for row in rows:
            values = b"".join(
                _bytes(1, _bytes(1, f"{prefix}/{name}".encode()) + b"\x15" + struct.pack("<f", value))
                for name, value in row.items()
                if name != "step"
            )
            records.append(_record(_double(1, time.time()) + b"\x10" + _varint(int(row["step"])) + _bytes(5, values)))
        with open(self._path, "ab") as file:
            file.write(b"".join(records))


def checksum(data: bytes) -> int:
    """The masked CRC-32C of records."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return b"".join((length, struct.pack("<I", checksum(length)), content, struct.pack("<I", checksum(content))))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)
