"""Depth out of an organised PointCloud2 that is registered to the image.

Reads the message's bytes itself, since sensor_msgs_py is not on PyPI (spec/ros.md) and this way there is one path
everywhere. Knows nothing about topics, pairing or TF.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenegen.scene import Floats, InvalidInput
from scenegen_ros.rectification import Lens

_FLOATS = {7: "f4", 8: "f8"}  # sensor_msgs/PointField: FLOAT32, FLOAT64
_CHECKED_POINTS = 500
_OFF_PIXELS = 3.0
"""A cloud whose points land further than this from their own pixels (in the median) is not registered to the image."""


def decode_points(
    message: Any, size: tuple[int, int], frame_id: str, intrinsics: Floats | None, lens: Lens | None
) -> NDArray[np.float32]:
    """sensor_msgs/PointCloud2 -> float32 [H, W] metres along the optical axis, 0 = no reading.

    size, frame_id: of the image the points must be registered to. intrinsics: float64 [3, 3] of the rectified image;
    lens: of the image as it comes, None where it is rectified; with either it is checked that the points project onto
    their own pixels. InvalidInput when the cloud is not organised, of another size or frame, not registered or broken.
    """
    if message.height <= 1:
        raise InvalidInput(
            f"points is unorganised, {message.width} points in one row: it must hold one point for every pixel of the "
            f"image ({size[1]}x{size[0]}), missing ones as NaN; take the driver's organised cloud (ordered_pc and the "
            "like) or its depth image"
        )
    if (message.height, message.width) != tuple(size):
        raise InvalidInput(
            f"points is {message.width}x{message.height} but its image is {size[1]}x{size[0]}: it must be registered "
            "to the image (depth_image_proc/register does), one point for every pixel"
        )
    said = message.header.frame_id.lstrip("/")
    if said != frame_id.lstrip("/"):
        raise InvalidInput(
            f"points is in frame '{said}' but the image is in '{frame_id}': publish it in the image's optical frame, "
            "before anything transforms it (into base_link or the like); what is only turned by TF is not registered"
        )
    xyz = np.stack([_field(message, name) for name in "xyz"], axis=-1)
    ahead = np.isfinite(xyz).all(axis=-1) & (xyz[..., 2] > 0)
    _check_registered(xyz, ahead, intrinsics, lens)
    return np.where(ahead, xyz[..., 2], 0).astype(np.float32)


def _field(message: Any, name: str) -> NDArray[Any]:
    """[H, W] view of one field of the cloud's points."""
    field = next((f for f in message.fields if f.name == name), None)
    if field is None or field.datatype not in _FLOATS or field.count not in (0, 1):
        raise InvalidInput(
            f"points has no field '{name}' of FLOAT32 or FLOAT64 (it has {', '.join(f.name for f in message.fields)}): "
            "publish x, y and z in metres"
        )
    kind = np.dtype((">" if message.is_bigendian else "<") + _FLOATS[field.datatype])
    row = message.row_step or message.point_step * message.width
    needed = row * (message.height - 1) + message.point_step * message.width
    if (
        field.offset + kind.itemsize > message.point_step
        or row < message.point_step * message.width
        or (len(message.data) < needed)
    ):
        raise InvalidInput(
            f"points says {message.width}x{message.height} points of {message.point_step} bytes in rows of "
            f"{message.row_step} but carries {len(message.data)} bytes: the publisher's message is broken"
        )
    data = np.frombuffer(message.data, np.uint8)
    return np.ndarray((message.height, message.width), kind, data, field.offset, (row, message.point_step))


def _check_registered(
    xyz: NDArray[Any], ahead: NDArray[np.bool_], intrinsics: Floats | None, lens: Lens | None
) -> None:
    """InvalidInput when most points do not project onto their own pixels."""
    v, u = np.nonzero(ahead)
    if intrinsics is None or not len(u):
        return
    some = slice(None, None, max(len(u) // _CHECKED_POINTS, 1))
    v, u = v[some], u[some]
    points = xyz[v, u].astype(np.float64)
    if lens is not None:
        pixels = lens.project(points)
    else:
        pixels = (points / points[:, 2:] @ intrinsics.T)[:, :2]
    off = float(np.median(np.hypot(pixels[:, 0] - u, pixels[:, 1] - v)))
    if off > _OFF_PIXELS:
        raise InvalidInput(
            f"points is organised but its points project {off:.0f} pixels off the image's: it is of another camera or "
            "another calibration; register it to the image (depth_image_proc/register)"
        )
