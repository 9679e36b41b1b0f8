"""What the views say about each object: measured points in the world frame and outlines with free space.

Knows nothing about assets or placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from scenegen.placement.outlines import Outlines, PosedView, eroded, outlines_of
from scenegen.scene import Floats, View

POINTS = 1500  # kept of an object, whatever the number of its views and their size
WHOLE = 3000  # points of a view's whole mask whose mean and variance stand for all
MIN_POINTS = 30
LEAST_READ = 0.02  # of a mask: less are mixed pixels along its edge
_SQUARE = np.ones((3, 3), np.uint8)


def depth_noise(z: Floats) -> Floats:
    """Standard deviation in metres of a stereo depth camera at depth z (spec/placement.md)."""
    return np.asarray(0.001 + 0.0025 * z**2)


@dataclass(frozen=True)
class Evidence:
    """Everything measured of one object.

    points: float64 [n, 3] world, metres, in random order. eyes: float64 [v, 3], the cameras that measured points, and
    eye [n]: which one each point is from. towards_camera: float64 [v, 3], unit directions from the object to the eyes,
    share [v]: their parts of it. mean, variance (trace of the covariance): of the whole mask, what has no reading being
    as deep as its neighbours. noise: standard deviation of the points in metres. pixels: of the mask in all views.
    read: share of the mask that has a usable reading.
    """

    points: Floats
    eyes: Floats
    eye: NDArray[np.int32]
    towards_camera: Floats
    share: Floats
    mean: Floats
    variance: float
    noise: float
    pixels: int
    read: float
    outlines: Outlines
    kept: dict[int, tuple[Floats, list[slice]]] = field(default_factory=dict)

    def by_eye(self, count: int) -> tuple[Floats, list[slice]]:
        """The first count points, those from one camera together: [n, 3], and for each camera where its points are."""
        if count not in self.kept:
            eye = self.eye[:count]
            ends = np.cumsum(np.bincount(eye, minlength=len(self.eyes))).tolist()
            slices = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
            self.kept[count] = self.points[:count][np.argsort(eye, kind="stable")], slices
        return self.kept[count]

    @property
    def length(self) -> float:
        """A rough diameter of the measured part, metres."""
        return float(3 * np.sqrt(self.variance))


def common_views(views: Sequence[View]) -> list[PosedView]:
    """The views that share a world: all with a pose, or else the first that has depth, in its own camera frame.

    Empty when no view has intrinsics and depth.
    """
    calibrated = [v for v in views if v.intrinsics is not None]
    posed = [PosedView.of(v, v.T_world_camera) for v in calibrated if v.T_world_camera is not None]
    if any(p.depth_m.any() for p in posed):
        return posed
    alone = (PosedView.of(v, np.eye(4)) for v in calibrated)
    return next(([p] for p in alone if p.depth_m.any()), [])


@dataclass(frozen=True)
class _Readings:
    """One instance's readings in one view: [n, 3] world, some of count; some points of its whole mask, of area."""

    points: Floats
    count: int
    whole: Floats
    area: int


def gather(views: Sequence[PosedView], instance: int) -> Evidence | None:
    """Everything the views measured of one instance; None where next to nothing was read."""
    random = np.random.default_rng(instance)
    shown = [posed for posed in views if (posed.view.masks == instance).any()]
    readings = [(posed, _readings(posed, instance, random)) for posed in shown]
    used = [(posed, found) for posed, found in readings if found is not None and found.count >= MIN_POINTS // 2]
    read, area = sum(found.count for _, found in used), sum(found.area for _, found in used)
    if read < max(MIN_POINTS, LEAST_READ * area):
        return None
    eyes = np.stack([posed.T_world_camera[:3, 3] for posed, _ in used])
    means = np.stack([found.whole.mean(axis=0) for _, found in used])
    share = np.array([found.area / area for _, found in used])
    mean = share @ means
    variance = float(share @ [((found.whole - mean) ** 2).sum(axis=1).mean() for _, found in used])
    towards = eyes - means
    reach = np.linalg.norm(towards, axis=-1, keepdims=True)
    clouds = [found.points[: max(1, round(POINTS * found.count / read))] for _, found in used]
    eye = np.repeat(np.arange(len(used), dtype=np.int32), [len(cloud) for cloud in clouds])
    order = random.permutation(len(eye))
    return Evidence(
        points=np.concatenate(clouds)[order],
        eyes=eyes,
        eye=eye[order],
        towards_camera=towards / reach,
        share=share,
        mean=mean,
        variance=max(variance, 1e-8),
        noise=float(depth_noise(reach).mean()),
        pixels=sum(int((posed.view.masks == instance).sum()) for posed in shown),
        read=read / area,
        outlines=outlines_of(shown, instance),
    )


def _readings(posed: PosedView, instance: int, random: np.random.Generator) -> _Readings | None:
    """Readings of one instance away from its mask's edge and from depth jumps, without stragglers; None without any.

    Its whole mask is all but the edge, where what has no reading is as deep as the nearest that has one.
    """
    mask = posed.view.masks == instance
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask, depth = mask[window], posed.depth_m[window]
    depth = np.where(mask, depth, 0)
    for rounds in (3, 2, 1):
        inner = eroded(mask, rounds)
        if inner.sum() > max(0.5 * mask.sum(), 4 * MIN_POINTS):
            break
    inner = inner if inner.sum() >= MIN_POINTS else mask
    far = cv2.dilate(depth, _SQUARE)
    near = cv2.erode(np.where(depth > 0, depth, np.float32(np.inf)), _SQUARE)
    kept = inner & (depth > 0) & (far - near < 0.015 + 0.02 * depth)
    if not kept.any():
        return None
    middle = np.median(depth[kept])
    spread = np.median(np.abs(depth[kept] - middle))
    kept &= np.abs(depth - middle) < 6 * spread + 0.02
    nearest = _nearest(kept, depth)

    def in_world(chosen: NDArray[np.bool_], most: int) -> Floats:
        v, u = np.nonzero(chosen)
        some = random.permutation(len(v))[:most]
        v, u = v[some], u[some]
        z = nearest[v, u].astype(np.float64)
        K = posed.intrinsics
        x, y = (u + columns[0] - K[0, 2]) / K[0, 0] * z, (v + rows[0] - K[1, 2]) / K[1, 1] * z
        return np.stack([x, y, z], axis=-1) @ posed.T_world_camera[:3, :3].T + posed.T_world_camera[:3, 3]

    return _Readings(in_world(kept, POINTS), int(kept.sum()), in_world(inner, WHOLE), int(inner.sum()))


def _nearest(kept: NDArray[np.bool_], depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth [h, w] where it is kept, and elsewhere that of the nearest pixel kept."""
    missing = (~kept).astype(np.uint8)
    labels = cv2.distanceTransformWithLabels(missing, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    by_label = np.zeros(int(labels.max()) + 1, np.float32)
    by_label[labels[kept]] = depth[kept]
    return by_label[labels]
