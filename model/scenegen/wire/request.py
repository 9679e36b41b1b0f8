"""A request as frames: one that says what comes, then one per image, mask and depth plane.

Of views that are still to be segmented, prompts stand in the first frame, and the images alone follow.

Knows nothing about HTTP or about what a server allows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scenegen.prompts import PromptedView
from scenegen.scene import DETAILS, Detail, Floats, InvalidInput, View
from scenegen.wire.frames import MEDIA_TYPE, FrameReader, Header, encode_frame
from scenegen.wire.prompts import decode_prompts, encode_prompt

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class RequestHeader:
    """What a request announces before its pixels come: enough to judge whether it is within the limits.

    sizes: (height, width) of every view.
    """

    seed: int
    ids: tuple[int, ...] | None
    detail: Detail
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Request:
    """One generation to do: the arguments of SceneGen.generate. Of a segmentation, its PromptedViews alone count."""

    views: tuple[View, ...]
    seed: int
    ids: tuple[int, ...] | None
    detail: Detail = "textured"


def encode_request(
    views: Sequence[View], seed: int, ids: Sequence[int] | None, *, compact: bool, detail: Detail = "textured"
) -> list[bytes]:
    """A generation request as frames to send in order. Lossless either way.

    compact: PNG and zlib, for a network; otherwise raw arrays, which cost no time on a unix socket or loopback.
    """
    header = {
        "kind": "request",
        "seed": int(seed),
        "ids": None if ids is None else [int(i) for i in ids],
        "detail": detail,
        "views": [
            {
                "size": list(view.image.shape[:2]),
                "depth": view.depth_m is not None and not isinstance(view, PromptedView),
                "intrinsics": None if view.intrinsics is None else view.intrinsics.tolist(),
                "T_world_camera": None if view.T_world_camera is None else view.T_world_camera.tolist(),
                "stamp_ns": int(view.stamp_ns),
            }
            | ({"prompts": [encode_prompt(p) for p in view.prompts]} if isinstance(view, PromptedView) else {})
            for view in views
        ],
    }
    frames = [encode_frame(header)]
    for view in views:
        frames.append(_encode_plane("image", view.image, np.dtype("u1"), compact))
        if isinstance(view, PromptedView):
            continue
        frames.append(_encode_plane("masks", view.masks, np.dtype("<i4"), compact))
        if view.depth_m is not None:
            frames.append(_encode_plane("depth", view.depth_m, np.dtype("<f4"), compact))
    return frames


class RequestReader:
    """Reads a request as its bytes arrive, so that one that is too large is refused before it has been sent.

    check: called with the header as soon as it is there, may raise.
    """

    def __init__(self, check: Callable[[RequestHeader], None] = lambda header: None) -> None:
        self._frames = FrameReader()
        self._check = check
        self._header: RequestHeader | None = None
        self._view_headers: list[Header] = []
        self._planes: list[tuple[Header, bytes]] = []

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes. InvalidInput when they cannot be a request, or whatever check raises."""
        for header, payload in self._frames.feed(chunk):
            if self._header is None:
                self._header, self._view_headers = _parse_request_header(header)
                self._check(self._header)
            elif len(self._planes) < sum(1 if "prompts" in view else 2 + view["depth"] for view in self._view_headers):
                self._planes.append((header, payload))
            else:
                raise InvalidInput("the request goes on after its last view: send one request per connection")

    def finish(self) -> Request:
        """The request, decoded. InvalidInput naming the view and part that is missing or cannot be read."""
        if self._header is None:
            raise InvalidInput(f"the request is empty or cut short: POST the frames of {MEDIA_TYPE}")
        planes = iter(self._planes)
        views: list[View] = []
        for index, (view, size) in enumerate(zip(self._view_headers, self._header.sizes, strict=True)):
            name = f"view {index}"
            image = _decode_plane(next(planes, None), name, "image", (*size, 3), np.dtype("u1"))
            if "prompts" in view:
                prompts = decode_prompts(view["prompts"], name)
                stamp_ns = _integer(view.get("stamp_ns"), f"{name} stamp_ns")
                views.append(PromptedView(image, np.zeros(size, np.int32), stamp_ns=stamp_ns, prompts=prompts))
                continue
            masks = _decode_plane(next(planes, None), name, "masks", size, np.dtype("<i4"))
            depth_m = _decode_plane(next(planes, None), name, "depth", size, np.dtype("<f4")) if view["depth"] else None
            views.append(
                View(
                    image=image,
                    masks=masks,
                    depth_m=depth_m,
                    intrinsics=_matrix(view.get("intrinsics"), 3, f"{name} intrinsics"),
                    T_world_camera=_matrix(view.get("T_world_camera"), 4, f"{name} T_world_camera"),
                    stamp_ns=_integer(view.get("stamp_ns"), f"{name} stamp_ns"),
                )
            )
        if self._frames.pending:
            raise InvalidInput("the request ends in the middle of a frame: it was cut short, send it again")
        return Request(tuple(views), self._header.seed, self._header.ids, self._header.detail)


def _parse_request_header(header: Header) -> tuple[RequestHeader, list[Header]]:
    if header["kind"] != "request":
        raise InvalidInput(f"a request starts with a request frame, not {header['kind']!r}")
    ids, views = header.get("ids"), header.get("views")
    if ids is not None and not isinstance(ids, list):
        raise InvalidInput("ids must be a list of instance ids, or null for all")
    if not isinstance(views, list) or not views:
        raise InvalidInput("the request has no views: send at least one")
    detail = header.get("detail", "textured")
    if detail not in DETAILS:
        raise InvalidInput(f"detail is {detail!r:.40}, it must be one of: {', '.join(DETAILS)}")
    sizes = []
    for index, view in enumerate(views):
        size = view.get("size") if isinstance(view, dict) else None
        if not isinstance(size, list) or len(size) != 2:
            raise InvalidInput(f"view {index} has no size [height, width]")
        height, width = (_integer(length, f"view {index} size") for length in size)
        if min(height, width) < 1:
            raise InvalidInput(f"view {index} is {width} x {height} pixels: it must have some")
        if not isinstance(view.get("depth"), bool):
            raise InvalidInput(f"view {index} does not say whether it has depth")
        sizes.append((height, width))
    unique = None if ids is None else tuple(_integer(i, "ids") for i in ids)
    return RequestHeader(_integer(header.get("seed"), "seed"), unique, detail, tuple(sizes)), views


def _integer(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise InvalidInput(f"{name} must be a 64-bit integer, got {value!r:.80}")
    return value


def _matrix(value: object, n: int, name: str) -> Floats | None:
    if value is None:
        return None
    try:
        matrix = np.array(value, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{name} must be {n} x {n} numbers") from error
    if matrix.shape != (n, n):
        raise InvalidInput(f"{name} must be {n} x {n} numbers, got {list(matrix.shape)}")
    return matrix


def _encode_plane(part: str, plane: NDArray[Any], dtype: np.dtype[Any], compact: bool) -> bytes:
    if not compact:
        return encode_frame({"kind": part, "encoding": "raw"}, np.ascontiguousarray(plane, dtype).tobytes())
    fits_png = plane.ndim == 3 or (part == "masks" and plane.min(initial=0) >= 0 and plane.max(initial=0) <= 65535)
    if not fits_png:
        packed = zlib.compress(np.ascontiguousarray(plane, dtype).tobytes(), 1)
        return encode_frame({"kind": part, "encoding": "zlib"}, packed)
    pixels = np.ascontiguousarray(plane[..., ::-1]) if plane.ndim == 3 else plane.astype(np.uint16)
    _, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encode_frame({"kind": part, "encoding": "png"}, png.tobytes())


def _decode_plane(
    frame: tuple[Header, bytes] | None, view: str, part: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The array of `shape` and native `dtype`; its size is known before anything is unpacked."""
    name = f"{view} {part}"
    if frame is None:
        raise InvalidInput(f"{name} is missing: the request was cut short, send it again")
    header, payload = frame
    encoding, size = header.get("encoding"), int(np.prod(shape)) * dtype.itemsize
    if header["kind"] != part:
        raise InvalidInput(f"{name} is missing: a {header['kind']!r:.40} frame stands in its place")
    if encoding == "png":
        return _decode_png(payload, name, shape).astype(dtype.newbyteorder("="))
    if encoding == "zlib":
        unpacker = zlib.decompressobj()
        try:
            payload = unpacker.decompress(payload, size + 1)
        except zlib.error as error:
            raise InvalidInput(f"{name} is not valid zlib ({error}): it was damaged, send it again") from error
    elif encoding != "raw":
        raise InvalidInput(f"{name} has the unknown encoding {encoding!r:.40}: use raw, zlib or png")
    if len(payload) != size:
        raise InvalidInput(f"{name} has {len(payload)} bytes, {list(shape)} {dtype} needs {size}: send whole planes")
    return np.frombuffer(payload, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _decode_png(data: bytes, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    width, height = struct.unpack(">II", data[16:24]) if data[:8] == _PNG_SIGNATURE and len(data) > 24 else (0, 0)
    if (height, width) != shape[:2]:
        raise InvalidInput(f"{name} is not a PNG of {shape[1]} x {shape[0]} pixels, as the request announced")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InvalidInput(f"{name} is not a readable PNG ({error}): send it again") from error
    allowed = (np.uint8,) if len(shape) == 3 else (np.uint8, np.uint16)
    if pixels is None or pixels.shape != shape or pixels.dtype not in allowed:
        raise InvalidInput(f"{name} is not a readable PNG of shape {list(shape)}: it was damaged, send it again")
    return pixels[..., ::-1] if len(shape) == 3 else pixels
