"""Frames: magic, lengths, a JSON header, a binary payload. Knows nothing about what they say."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from scenegen.scene import InvalidInput

MEDIA_TYPE = "application/vnd.scenegen.v1"
"""Of requests and answers. A change that an older peer cannot read gets a new number."""

_PREFIX = struct.Struct(">4sIQ")  # magic, bytes of JSON, bytes of payload
_MAGIC = b"SGv1"
_MAX_HEADER = 1 << 20
_MAX_PAYLOAD = 1 << 30

Header = dict[str, Any]


def encode_frame(header: Header, payload: bytes = b"") -> bytes:
    """One frame. ValueError when the header holds a number that JSON has not (NaN, infinity)."""
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    return _PREFIX.pack(_MAGIC, len(text), len(payload)) + text + payload


ALIVE = encode_frame({"kind": "alive"})
"""A frame that says nothing but that the server still works on it; readers skip it."""


class FrameReader:
    """Cuts a stream of bytes, fed in pieces of any size, into frames. InvalidInput on bytes that are none."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[Header, bytes]]:
        """The frames that are complete now: (header, payload)."""
        self._buffer += chunk
        while len(self._buffer) >= _PREFIX.size:
            magic, header_size, payload_size = _PREFIX.unpack_from(self._buffer)
            if magic != _MAGIC or header_size > _MAX_HEADER or payload_size > _MAX_PAYLOAD:
                raise InvalidInput(
                    f"these bytes are not a scenegen frame ({_MAGIC.decode()}): client and server must be "
                    "of matching versions, with nothing between them that changes the stream"
                )
            start, end = _PREFIX.size + header_size, _PREFIX.size + header_size + payload_size
            if len(self._buffer) < end:
                return
            header, payload = bytes(self._buffer[_PREFIX.size : start]), bytes(self._buffer[start:end])
            del self._buffer[:end]
            yield _parse_header(header), payload

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)


def _parse_header(text: bytes) -> Header:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"a frame's header is not JSON ({error}): use the client of this version") from error
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise InvalidInput("a frame's header has no kind: use the client of this version")
    return header
