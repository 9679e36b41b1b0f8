"""What the views say about each object: measured points in the world frame and outlines with free space.

Knows nothing about assets or placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from scenegen.scene import Floats, View

OUTLINE_PIXELS = 320
POINTS = 1500
MIN_POINTS = 30
LEAST_READ = 0.02  # of a mask: less are mixed pixels along its edge
INSIDE = 80
BLIND = 0.25


def depth_noise(z: Floats) -> Floats:
    """Standard deviation in metres of a stereo depth camera at depth z (spec/placement.md)."""
    return np.asarray(0.001 + 0.0025 * z**2)


@dataclass(frozen=True)
class Outline:
    """One object's mask in one view, at reduced resolution, and the depth measured around it.

    table: float32 [h * w, 6] per pixel: how far it lies outside the mask, as a tangent (metres at one metre); the
    direction (x, y) in which that grows; the depth measured there (0: none); 1 safely inside the mask; 1 where another
    object is seen without a reading. step: source pixels per pixel. shape: (h, w). inside: tangents [n, 2] of some
    pixels within the mask, with or without a reading. blind: most of its extent is not told by readings.
    """

    table: NDArray[np.float32]
    shape: tuple[int, int]
    step: int
    intrinsics: Floats
    T_camera_world: Floats
    inside: Floats
    blind: bool

    def violation(self, at: Floats) -> tuple[Floats, Floats]:
        """How far points at [..., 3] (world, metres) contradict the view, and which way that grows.

        A point contradicts it outside the mask where nothing nearer was measured, or in front of what was measured.
        Returns metres >= 0 [...] and unit directions in the world [..., 3].
        """
        height, width = self.shape
        camera = at @ self.T_camera_world[:3, :3].T + self.T_camera_world[:3, 3]
        z = np.maximum(camera[..., 2], 1e-3)
        tangent = camera[..., :2] / z[..., None]
        K = self.intrinsics / self.step
        column = (K[0, 0] * tangent[..., 0] + (K[0, 2] + 0.5)).astype(np.int64)
        row = (K[1, 1] * tangent[..., 1] + (K[1, 2] + 0.5)).astype(np.int64)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (camera[..., 2] > 0.01)
        found = self.table.take(np.where(inside, row * width + column, 0), axis=0)
        measured = found[..., 3]
        nearest_allowed = z - (0.005 + 0.0075 * z * z)  # three deviations of depth_noise and 2 mm
        occluded = ((measured > 0) & (measured < nearest_allowed)) | (found[..., 5] > 0)
        outside = found[..., 0] * z * (inside & ~occluded)
        in_front = np.maximum(measured + (nearest_allowed - 2 * z), 0) * (found[..., 4] * inside)
        slope = found[..., 1:3]
        direction = np.concatenate([slope, -(slope * tangent).sum(-1, keepdims=True)], axis=-1)
        direction[in_front > 0] = (0.0, 0.0, -1.0)
        return outside + in_front, direction @ self.T_camera_world[:3, :3]

    def uncovered(self, at: Floats, spacing: float) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Which of points at [n, 3] (world, metres) are nearest to the pixels inside, and how far beside them they are.

        Returns their indices [m], metres beyond the spacing of points [m], and the unit directions in the world [m, 3]
        in which that grows.
        """
        camera = at @ self.T_camera_world[:3, :3].T + self.T_camera_world[:3, 3]
        z = np.maximum(camera[:, 2], 1e-3)
        tangent = camera[:, :2] / z[:, None]
        distance, index = cKDTree(tangent).query(self.inside)
        away = (tangent[index] - self.inside) / np.maximum(distance, 1e-9)[:, None]
        amount = np.maximum(distance * z[index] - spacing, 0)
        return index, amount, away @ self.T_camera_world[:2, :3]


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
    outlines: tuple[Outline, ...]

    @property
    def length(self) -> float:
        """A rough diameter of the measured part, metres."""
        return float(3 * np.sqrt(self.variance))


@dataclass(frozen=True)
class PosedView:
    """A view that can be used together with the others: its camera is known in the common world."""

    view: View
    intrinsics: Floats
    T_world_camera: Floats
    depth_m: NDArray[np.float32]

    @staticmethod
    def of(view: View, T_world_camera: Floats) -> PosedView:
        """Clean a view's depth; without depth it is all zero. Needs intrinsics."""
        assert view.intrinsics is not None
        depth = np.zeros(view.masks.shape, np.float32) if view.depth_m is None else np.asarray(view.depth_m, np.float32)
        depth = np.where(np.isfinite(depth) & (depth > 0.02), depth, np.float32(0))
        return PosedView(view, view.intrinsics, T_world_camera, depth)


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


def gather(views: Sequence[PosedView], instance: int) -> Evidence | None:
    """Everything the views measured of one instance; None where next to nothing was read."""
    random = np.random.default_rng(instance)
    clouds: list[Floats] = []
    whole: list[Floats] = []
    cameras: list[Floats] = []
    pixels = 0
    for posed in views:
        pixels += int((posed.view.masks == instance).sum())
        cloud, filled = _points(posed, instance)
        if len(cloud) >= MIN_POINTS // 2:
            clouds.append(cloud)
            whole.append(filled)
            cameras.append(posed.T_world_camera[:3, 3])
    read = sum(map(len, clouds))
    if read < max(MIN_POINTS, LEAST_READ * sum(map(len, whole))):
        return None
    towards = np.stack(cameras) - np.stack([filled.mean(axis=0) for filled in whole])
    reach = np.linalg.norm(towards, axis=-1, keepdims=True)
    share = np.array([len(filled) for filled in whole], dtype=np.float64)
    points = np.concatenate(clouds)
    order = random.permutation(len(points))
    points, eye = points[order], np.repeat(np.arange(len(clouds), dtype=np.int32), [len(c) for c in clouds])[order]
    filled = np.concatenate(whole)
    mean = filled.mean(axis=0)
    variance = float(((filled - mean) ** 2).sum(axis=1).mean())
    outlines = tuple(outline_of(posed, instance) for posed in views if (posed.view.masks == instance).any())
    noise = float(depth_noise(reach).mean())
    return Evidence(
        points=points[:POINTS],
        eyes=np.stack(cameras),
        eye=eye[:POINTS],
        towards_camera=towards / reach,
        share=share / share.sum(),
        mean=mean,
        variance=max(variance, 1e-8),
        noise=noise,
        pixels=pixels,
        read=read / sum(map(len, whole)),
        outlines=outlines,
    )


def _points(posed: PosedView, instance: int) -> tuple[Floats, Floats]:
    """Readings of one instance away from its mask's edge and from depth jumps, without stragglers: [n, 3] world.

    And points [m, 3] for all of its mask but the edge, those without a reading as deep as the nearest that has one.
    """
    mask = posed.view.masks == instance
    nothing = np.zeros((0, 3)), np.zeros((0, 3))
    if not mask.any():
        return nothing
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask, depth = mask[window], posed.depth_m[window]
    depth = np.where(mask, depth, 0)
    for rounds in (3, 2, 1):
        inner = ndimage.binary_erosion(mask, iterations=rounds)
        if inner.sum() > max(0.5 * mask.sum(), 4 * MIN_POINTS):
            break
    inner = inner if inner.sum() >= MIN_POINTS else mask
    far = ndimage.maximum_filter(depth, 3)
    near = ndimage.minimum_filter(np.where(depth > 0, depth, np.inf), 3)
    kept = inner & (depth > 0) & (far - near < 0.015 + 0.02 * depth)
    if not kept.any():
        return nothing
    middle = np.median(depth[kept])
    spread = np.median(np.abs(depth[kept] - middle))
    kept &= np.abs(depth - middle) < 6 * spread + 0.02
    nearest = ndimage.distance_transform_edt(~kept, return_distances=False, return_indices=True)

    def in_world(chosen: NDArray[np.bool_]) -> Floats:
        v, u = np.nonzero(chosen)
        z = depth[tuple(nearest[:, v, u])].astype(np.float64)
        rays = np.linalg.solve(posed.intrinsics, np.stack([u + columns[0], v + rows[0], np.ones(len(u))]))
        return np.asarray((rays * z).T @ posed.T_world_camera[:3, :3].T + posed.T_world_camera[:3, 3])

    return in_world(kept), in_world(inner)


def outline_of(posed: PosedView, instance: int) -> Outline:
    """Where one instance's mask lies in a view, and what was measured around it."""
    masks = posed.view.masks
    step = max(1, -(-max(masks.shape) // OUTLINE_PIXELS))
    masks, depth = masks[::step, ::step], posed.depth_m[::step, ::step]
    mask = masks == instance
    pixels = ndimage.distance_transform_edt(~mask) if mask.any() else np.zeros(mask.shape)
    pixels = np.maximum(pixels - 1, 0)  # a mask bleeds by about a pixel
    slope = np.stack(np.gradient(pixels)[::-1], axis=-1)
    slope /= np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-6)
    core = ndimage.binary_erosion(mask, iterations=2)
    v, u = np.nonzero(ndimage.binary_erosion(mask) if core.any() else mask)
    chosen = np.random.default_rng(instance).permutation(len(v))[:INSIDE]
    rays = np.linalg.solve(posed.intrinsics, np.stack([u[chosen] * step, v[chosen] * step, np.ones(len(chosen))]))
    hidden = (masks > 0) & ~mask & (depth == 0)
    table = [pixels * (step / posed.intrinsics[0, 0]), slope[..., 0], slope[..., 1], depth, core, hidden]
    return Outline(
        table=np.stack(table, axis=-1).reshape(-1, 6).astype(np.float32),
        shape=(mask.shape[0], mask.shape[1]),
        step=step,
        intrinsics=posed.intrinsics,
        T_camera_world=np.asarray(np.linalg.inv(posed.T_world_camera)),
        inside=np.asarray(rays[:2].T),
        blind=bool((depth[v, u] == 0).mean() > BLIND),
    )
