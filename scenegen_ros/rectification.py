"""Undoes a lens: image, masks and depth of a distorted camera as its rectified pinhole camera would see them.

The rules of sensor_msgs/CameraInfo and of image_proc; the maps are made once per camera info. Knows nothing about
topics or messages, only the numbers in a camera info.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from scenegen.scene import Floats, InvalidInput, View

COEFFICIENTS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
    "fisheye": (4,),
}
"""Distortion model (sensor_msgs/distortion_models.hpp; fisheye is what some drivers call equidistant) -> how many
coefficients it may have, in OpenCV's order."""

_Matrix = tuple[float, ...]
_Pixel = TypeVar("_Pixel", bound=np.generic)
_CAMERAS = 4
"""Cameras whose maps are held: 12 to 16 bytes a pixel, at most 33 MB at 1920x1080."""
_OUTSIDE = -1e6


@dataclass(frozen=True)
class Lens:
    """A distorted camera and the rectified one it is turned into. Hashable, so that its maps are made once.

    size: (height, width). K: the distorted camera's matrix, P: the rectified one's, R: turns rays of the one into those
    of the other, each 9 numbers row by row. d: the model's coefficients.
    """

    model: str
    size: tuple[int, int]
    K: _Matrix
    d: _Matrix
    R: _Matrix
    P: _Matrix

    @staticmethod
    def of(model: str, size: tuple[int, int], K: Floats, d: Sequence[float], R: Floats, P: Floats) -> Lens | None:
        """K, R and P: float64 [3, 3]. None where there is nothing to undo: no coefficient but zero (image_proc).

        InvalidInput on a model that is not known, or a number of coefficients that is not the model's.
        """
        if not any(d):  # NaN counts
            return None
        accepted = COEFFICIENTS.get(model)
        if accepted is None:
            raise InvalidInput(
                f"camera_info has distortion_model '{model}', known are {', '.join(COEFFICIENTS)}: rectify before this "
                "node (image_proc does) and set the parameter rectify to never"
            )
        if len(d) not in accepted:
            raise InvalidInput(
                f"camera_info has {len(d)} coefficients d for distortion_model '{model}', which has "
                f"{' or '.join(map(str, accepted))}: correct the calibration file of the camera's driver"
            )
        if not np.isfinite([*d, *K.ravel()]).all():
            raise InvalidInput(
                "camera_info holds a NaN or an infinite number in k or d: correct the calibration file of the driver"
            )
        turn = R if R.any() else np.eye(3)  # empty in many drivers
        flat: list[_Matrix] = [tuple(map(float, m.ravel())) for m in (K, turn, P)]
        return Lens(model, size, flat[0], tuple(map(float, d)), flat[1], flat[2])

    @property
    def is_fisheye(self) -> bool:
        """Whether it is of the equidistant model."""
        return self.model in ("equidistant", "fisheye")

    def project(self, points: Floats) -> Floats:
        """Pixels float64 [n, 2] of the distorted image at which points [n, 3] in its optical frame are seen."""
        K, d, rays = _square(self.K), np.array(self.d), points[None].astype(np.float64)
        zero = np.zeros(3)
        if self.is_fisheye:
            return np.asarray(cv2.fisheye.projectPoints(rays, zero, zero, K, d)[0], float).reshape(-1, 2)
        return np.asarray(cv2.projectPoints(rays, zero, zero, K, d)[0], float).reshape(-1, 2)

    def undo(self, pixels: Floats) -> Floats:
        """Where pixels float64 [n, 2] of the distorted image are in the rectified one, float64 [n, 2]."""
        undistort = cv2.fisheye.undistortPoints if self.is_fisheye else cv2.undistortPoints
        points = pixels[:, None].astype(np.float64)
        found = undistort(points, _square(self.K), np.array(self.d), R=_square(self.R), P=_square(self.P))
        return np.asarray(found, float).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class _Maps:
    """x, y: float32 [H, W], where in the distorted image a rectified pixel is seen; far outside where it is not.

    nearest: int32 [H, W], flat index of the nearest pixel there, -1 outside. depth_scale: float32 [H, W], depth along
    the rectified optical axis over depth along the distorted camera's; None where both axes are the same.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    nearest: NDArray[np.int32]
    depth_scale: NDArray[np.float32] | None


def wants_rectifying(parameter: str, image_topic: str) -> bool:
    """What the parameter rectify means for an image topic.

    A camera info says how the lens distorts whether or not its image is rectified already: image_proc publishes
    image_rect beside the same camera info as image_raw. So auto goes by the topic's name.
    """
    if parameter == "auto":
        return not {"rect", "rectified"} & set(re.split(r"[/_]", image_topic.lower()))
    return parameter == "always"


def rectified(view: View, lens: Lens) -> View:
    """A view of the distorted camera, its intrinsics already the rectified ones, as the rectified camera sees it.

    The image is interpolated; masks and depth take the nearest pixel, for an id or an edge between two depths has no
    middle. What the distorted camera does not see is black, background and without a reading.
    """
    maps = _maps(lens)
    image = cv2.remap(view.image, maps.x, maps.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    depth_m = view.depth_m
    if depth_m is not None:
        depth_m = _take(depth_m, maps.nearest)
        if maps.depth_scale is not None:
            depth_m = depth_m * maps.depth_scale
    return replace(view, image=np.asarray(image, np.uint8), masks=_take(view.masks, maps.nearest), depth_m=depth_m)


def _take(plane: NDArray[_Pixel], nearest: NDArray[np.int32]) -> NDArray[_Pixel]:
    found: NDArray[_Pixel] = plane.ravel()[nearest]
    found[nearest < 0] = 0
    return found


@lru_cache(maxsize=_CAMERAS)
def _maps(lens: Lens) -> _Maps:
    height, width = lens.size
    K, R, P, d = _square(lens.K), _square(lens.R), _square(lens.P), np.array(lens.d)
    undo = cv2.fisheye.initUndistortRectifyMap if lens.is_fisheye else cv2.initUndistortRectifyMap
    x, y = (np.array(m, np.float32) for m in undo(K, d, R, P, (width, height), cv2.CV_32FC1))
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ (R.T @ np.linalg.inv(P)).T  # in the distorted camera's frame
    ahead = rays[..., 2] > 1e-6
    radius = np.hypot(rays[..., 0], rays[..., 1]) / np.where(ahead, rays[..., 2], 1.0)
    folded = ~ahead | (radius > _reach(lens, float(radius[ahead].max(initial=0.0))))
    x[folded], y[folded] = _OUTSIDE, _OUTSIDE
    column, row = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    same_axis = np.allclose(R[2], (0.0, 0.0, 1.0))
    scale = None if same_axis else (1.0 / np.where(ahead, rays[..., 2], 1.0)).astype(np.float32)
    return _Maps(x, y, np.where(inside, row * width + column, -1), scale)


def _reach(lens: Lens, furthest: float) -> float:
    """The radius (tangent) up to which the lens maps outwards.

    Beyond it a polynomial fitted to the image folds back, and rectified corners would show the middle's ghost.
    """
    r = np.linspace(0.0, furthest, 2000)
    if lens.is_fisheye:
        angle = np.arctan(r)
        powers = angle[:, None] ** np.array([2, 4, 6, 8])
        mapped = angle * (1 + powers @ np.array(lens.d))
    else:
        k = np.zeros(8)
        given = lens.d[:8]
        k[: len(given)] = given
        s = r * r
        mapped = r * (1 + s * (k[0] + s * (k[1] + s * k[4]))) / (1 + s * (k[5] + s * (k[6] + s * k[7])))
    falls = np.flatnonzero(~(np.diff(mapped) > 0))
    return float(r[falls[0]]) if len(falls) else np.inf


def _square(values: _Matrix) -> Floats:
    return np.array(values).reshape(3, 3)
