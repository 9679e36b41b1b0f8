"""The events of one request as frames: progress, each object as GLB, and the scene or masks, or why there are none.

Knows nothing about HTTP or about how long a generation takes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scenegen.glb import mesh_from_glb, mesh_to_glb
from scenegen.scene import DETAILS, Asset, InvalidInput, Placement, Progress, Scene
from scenegen.wire.frames import FrameReader, Header, encode_frame

FailureKind = Literal["InvalidInput", "GenerationFailed", "ServerStopping"]


@dataclass(frozen=True)
class Failure:
    """The request's work ended without a result."""

    kind: FailureKind
    message: str


@dataclass(frozen=True)
class Masks:
    """The segmentation of a request's views: instance ids int32 [H, W] of each, 0 = background."""

    planes: tuple[NDArray[np.int32], ...]


Event = Progress | Scene | Masks | Failure


class EventWriter:
    """Encodes the events of one generation; remembers which assets went out, so that each is sent once."""

    def __init__(self) -> None:
        self._sent: dict[int, Asset] = {}

    def progress(self, progress: Progress) -> bytes:
        """A progress frame, with the asset as GLB if one has just been finished."""
        header: Header = {"kind": "progress", "stage": progress.stage, "fraction": float(progress.fraction)}
        late = b""
        if progress.scene is not None:
            late = self._late(progress.scene, progress.stage, progress.fraction)
            header["scene"] = _describe(progress.scene)
        if progress.asset is None:
            return late + encode_frame(header)
        asset = progress.asset
        self._sent[asset.id] = asset
        header["asset"] = {"id": asset.id, "label": asset.label, "detail": asset.detail}
        return late + encode_frame(header, mesh_to_glb(asset.mesh))

    def scene(self, scene: Scene) -> bytes:
        """The frames that end a generation: assets not sent yet, then the scene that refers to them by id."""
        return self._late(scene, "assemble", 1.0) + encode_frame({"kind": "scene"} | _describe(scene))

    def _late(self, scene: Scene, stage: str, fraction: float) -> bytes:
        """The scene's assets that were not sent yet."""
        late = [asset for asset in scene.assets if self._sent.get(asset.id) is not asset]
        return b"".join(self.progress(Progress(stage, fraction, asset)) for asset in late)


def _describe(scene: Scene) -> Header:
    """A scene, its assets by id."""
    placements = [
        {
            "translation": [float(x) for x in placement.translation],
            "rotation_wxyz": [float(x) for x in placement.rotation_wxyz],
            "scale": float(placement.scale),
        }
        for placement in scene.placements
    ]
    return {
        "ids": [asset.id for asset in scene.assets],
        "placements": placements,
        "query": scene.query,
        "seconds": {stage: float(seconds) for stage, seconds in scene.seconds.items()},
    }


def encode_masks(planes: Sequence[NDArray[np.int32]]) -> bytes:
    """The frame that ends a segmentation."""
    header: Header = {"kind": "masks", "sizes": [list(plane.shape) for plane in planes]}
    return encode_frame(header, zlib.compress(b"".join(plane.astype("<i4").tobytes() for plane in planes), 1))


def _masks(header: Header, payload: bytes) -> Masks:
    """The planes of encode_masks; their size is known before anything is unpacked."""
    sizes = [(int(height), int(width)) for height, width in header["sizes"]]
    ends = np.cumsum([height * width for height, width in sizes])
    try:
        data = zlib.decompressobj().decompress(payload, 4 * int(ends[-1]) + 1)
    except zlib.error as error:
        raise ValueError(error) from error
    pixels = np.frombuffer(data, "<i4").astype(np.int32)
    if len(pixels) != ends[-1]:
        raise ValueError(f"{len(data)} bytes for {len(sizes)} planes of {ends[-1]} pixels in all")
    parts = np.split(pixels, ends[:-1])
    return Masks(tuple(part.reshape(size) for part, size in zip(parts, sizes, strict=True)))


def encode_failure(failure: Failure) -> bytes:
    """The frame that ends a request's work without a result."""
    return encode_frame({"kind": "failure", "failure": failure.kind, "message": failure.message})


class EventReader:
    """Reads the events of one request as their bytes arrive. InvalidInput on bytes that are none."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._assets: dict[int, Asset] = {}

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that are complete now."""
        for header, payload in self._frames.feed(chunk):
            if header["kind"] == "alive":
                continue
            try:
                yield self._event(header, payload)
            except InvalidInput:
                raise
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise InvalidInput(
                    f"the server's {header['kind']!r:.40} event is garbled ({error!r}): run one version on both ends"
                ) from error

    def _event(self, header: Header, payload: bytes) -> Event:
        if header["kind"] == "progress":
            asset = self._asset(header["asset"], payload) if "asset" in header else None
            scene = self._scene(header["scene"]) if "scene" in header else None
            return Progress(str(header["stage"]), float(header["fraction"]), asset, scene)
        if header["kind"] == "scene":
            return self._scene(header)
        if header["kind"] == "masks":
            return _masks(header, payload)
        if header["kind"] == "failure":
            return Failure(header["failure"], str(header["message"]))
        raise InvalidInput(f"the server sent an unknown event {header['kind']!r:.40}: run one version on both ends")

    def _scene(self, header: Header) -> Scene:
        placements = tuple(
            Placement(np.array(p["translation"], float), np.array(p["rotation_wxyz"], float), float(p["scale"]))
            for p in header["placements"]
        )
        assets = tuple(self._assets[i] for i in header["ids"])
        return Scene(assets, placements, int(header["query"]), dict(header["seconds"]))

    def _asset(self, header: Header, payload: bytes) -> Asset:
        if header["detail"] not in DETAILS:
            raise InvalidInput(f"object {header['id']} has the unknown detail {header['detail']!r:.40}")
        mesh = mesh_from_glb(payload, f"object {header['id']}")
        asset = Asset(int(header["id"]), str(header["label"]), mesh, header["detail"])
        self._assets[asset.id] = asset
        return asset
