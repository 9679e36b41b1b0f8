"""What one view measured of its instances. Knows nothing about other views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scenegen.scene import Floats, InvalidInput, View

Masks = NDArray[np.int32]

MIN_POINTS = 8
"""Fewer points of an instance than this say nothing."""
MIN_PIXELS = 50
"""An instance of fewer pixels that belongs to no other is a crumb, and becomes background."""
_POINTS = 1500


@dataclass(frozen=True, eq=False)
class Measured:
    """What is needed of one view, made once for all the calls that it goes through.

    ids, pixels: of its instances. points: world, metres, [k, 3] for each. rays: float64 [n, 3] world, unit, through the
    middles of their masks. labels: int32 [H, W], place in ids + 1.
    depth: float64 [H, W], metres; 0 is no reading. usable: bool [H, W], readings away from depth's jumps.
    """

    view: View
    ids: tuple[int, ...]
    pixels: tuple[int, ...]
    points: tuple[Floats, ...]
    rays: Floats
    labels: Masks
    depth: Floats
    usable: NDArray[np.bool_]
    intrinsics: Floats
    T_world_camera: Floats

    @staticmethod
    def of(view: View) -> Measured:
        """InvalidInput when the view lacks what is needed."""
        K, T = view.intrinsics, view.T_world_camera
        if view.depth_m is None or K is None or T is None:
            raise InvalidInput(
                "a view has no depth, intrinsics or camera pose: which instances are the same object can only be told "
                "by the space they take up, where all three are there; give them, or ids that are the same in all views"
            )
        depth = np.where(np.isfinite(view.depth_m) & (view.depth_m > 0), view.depth_m, 0.0).astype(np.float64)
        near, far = ndimage.minimum_filter(np.where(depth > 0, depth, np.inf), 3), ndimage.maximum_filter(depth, 3)
        usable = (depth > 0) & (far - near <= 0.015 + 0.02 * depth)  # else it may lie between the near and the far side
        ids = np.array(view.instance_ids, int)
        labels = (np.searchsorted(ids, view.masks) + 1).astype(np.int32)
        labels[view.masks <= 0] = 0
        pixels, points, middles = [], [], []
        for k, window in enumerate(ndimage.find_objects(labels)):
            mask = labels[window] == k + 1
            v, u = np.nonzero(usable[window] & _core(mask))
            chosen = np.random.default_rng(k).permutation(len(u))[:_POINTS]
            v, u = v[chosen] + window[0].start, u[chosen] + window[1].start
            pixels.append(int(mask.sum()))
            down, right = (place.mean() for place in np.nonzero(mask))
            middles.append([right + window[1].start, down + window[0].start, 1.0])
            points.append(_points(u, v, depth[v, u], K, T))
        rays = np.array(middles).reshape(-1, 3) @ np.linalg.inv(K).T @ T[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        return Measured(view, tuple(ids.tolist()), tuple(pixels), tuple(points), rays, labels, depth, usable, K, T)


def _core(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without its edge, which may lie on a neighbour; empty for one that is all edge."""
    core = ndimage.binary_erosion(mask, iterations=2)
    return np.asarray(core if core.sum() >= 4 * MIN_POINTS else ndimage.binary_erosion(mask))


def _points(u: NDArray[np.int64], v: NDArray[np.int64], z: Floats, K: Floats, T_world_camera: Floats) -> Floats:
    """Measured points, [n, 3] world, without stragglers."""
    if len(z):
        middle = np.median(z)
        typical = np.abs(z - middle) < 6 * np.median(np.abs(z - middle)) + 0.02
        v, u, z = v[typical], u[typical], z[typical]
    rays = np.linalg.solve(K, np.stack([u, v, np.ones(len(u))]))
    return np.asarray((rays * z).T @ T_world_camera[:3, :3].T + T_world_camera[:3, 3])
