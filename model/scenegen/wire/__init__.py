"""Views, progress and scenes as bytes: what the client and the generation server say to each other.

Both directions are a row of frames, each a JSON header and a binary payload. Nothing is pickled. Knows nothing about
HTTP, sockets, limits or torch.
"""

from __future__ import annotations

from scenegen.wire.events import Event, EventReader, EventWriter, Failure, Masks, encode_failure, encode_masks
from scenegen.wire.frames import ALIVE, MEDIA_TYPE, FrameReader, encode_frame
from scenegen.wire.request import Request, RequestHeader, RequestReader, encode_request

__all__ = [
    "ALIVE",
    "MEDIA_TYPE",
    "Event",
    "EventReader",
    "EventWriter",
    "Failure",
    "FrameReader",
    "Masks",
    "Request",
    "RequestHeader",
    "RequestReader",
    "encode_failure",
    "encode_frame",
    "encode_masks",
    "encode_request",
]
