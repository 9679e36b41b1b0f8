"""What the objects stand on: the plane most readings beside them lie on.

Knows nothing about assets or placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scenegen.placement.evidence import MIN_POINTS, depth_noise
from scenegen.placement.outlines import OUTLINE_PIXELS, PosedView, outside_of
from scenegen.scene import Floats

POINTS = 1500  # a view
HYPOTHESES, REFITS = 300, 4
SHARE = 0.4  # of the readings beside the objects that must lie on it
WALL = 0.5  # a plane around the objects whose normal is farther from the vertical than 60 degrees carries nothing


@dataclass(frozen=True)
class Support:
    """What the objects stand on: points x of the world with up @ x = height. up: float64 [3], towards the cameras."""

    up: Floats
    height: float


def support_of(views: Sequence[PosedView], instances: Sequence[int]) -> Support | None:
    """The plane that most readings around the objects lie on; None without one."""
    random = np.random.default_rng(0)
    clouds, deviations = [], []
    for posed in views:
        step = max(1, max(posed.depth_m.shape) // OUTLINE_PIXELS)
        masks, depth = posed.view.masks[::step, ::step], posed.depth_m[::step, ::step]
        wanted = np.isin(masks, instances)
        if not (depth[wanted] > 0).any():
            continue
        reach = max(4, int(0.3 * np.sqrt(wanted.sum())))
        nearest, farthest = np.quantile(depth[wanted & (depth > 0)], [0.02, 0.98])
        behind = farthest + (farthest - nearest) / 2  # a floor far below a table is no neighbour
        around = (outside_of(wanted) < reach) & (masks == 0) & (depth > 0) & (depth < behind)
        v, u = np.nonzero(around)
        chosen = random.permutation(len(v))[:POINTS]
        v, u = v[chosen], u[chosen]
        rays = np.linalg.solve(posed.intrinsics, np.stack([u * step, v * step, np.ones(len(u))]))
        clouds.append((rays * depth[v, u]).T @ posed.T_world_camera[:3, :3].T + posed.T_world_camera[:3, 3])
        deviations.append(depth_noise(depth[v, u].astype(np.float64)))
    points = np.concatenate([np.zeros((0, 3)), *clouds])
    if len(points) < 10 * MIN_POINTS:
        return None
    tolerance = 3 * np.concatenate(deviations)
    corners = points[random.integers(len(points), size=(HYPOTHESES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    near = np.abs(points @ normals.T - (corners[:, 0] * normals).sum(-1)) < tolerance[:, None]
    chosen = near[:, np.argmax(near.sum(axis=0))]
    if chosen.mean() < SHARE:
        return None
    for _ in range(REFITS):
        middle = points[chosen].mean(axis=0)
        normal = np.linalg.svd(points[chosen] - middle, full_matrices=False)[2][2]
        chosen = np.abs((points - middle) @ normal) < tolerance
    normal = np.asarray(normal * np.sign(normal @ (views[0].T_world_camera[:3, 3] - middle)))
    return Support(normal, float(normal @ middle))


def carrying(gravity: Floats | None, support: Support | None) -> Support | None:
    """The support, unless gravity [3] tells that it is a wall."""
    wall = support is not None and gravity is not None and abs(gravity @ support.up) < WALL
    return None if wall else support
