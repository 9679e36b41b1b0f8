"""The measures of spec/evaluation.md on point clouds and voxel grids, one function each.

Knows nothing about scenes, files or alignment: clouds come in the frame they are compared in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from scenegen.scene import Floats, InvalidInput

Grid = NDArray[np.bool_]

POINTS_PER_OBJECT = 10_240
TAU = 0.1
"""F-score distance, Euclidean, in the units of the normalised scene or object."""
SCENE_HALF_SIDE = 0.98
OBJECT_HALF_SIDE = 0.95


def sample_surface(mesh: trimesh.Trimesh, count: int = POINTS_PER_OBJECT, *, seed: int = 0) -> Floats:
    """Points [count, 3] on the mesh, evenly by area. A mesh without any area gives its centre (or the origin)."""
    triangles = np.asarray(mesh.triangles, dtype=np.float64)
    edges = triangles[:, 1:] - triangles[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    if not area.sum() > 0:
        centre = mesh.vertices.mean(0) if len(mesh.vertices) else np.zeros(3)
        return np.tile(np.asarray(centre, dtype=np.float64), (count, 1))
    rng = np.random.default_rng(seed)
    share = np.cumsum(area) / area.sum()
    # in the order of the faces, so that neighbours in the array are near in space: trees answer them faster
    chosen = np.minimum(np.searchsorted(share, np.sort(rng.random(count))), len(area) - 1)
    u, v = rng.random((2, count, 1))
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    return triangles[chosen, 0] + u * edges[chosen, 0] + v * edges[chosen, 1]


def nearest_distances(
    generated: Floats, truth: Floats, truth_tree: cKDTree | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each generated point [N, 3] to the truth [M, 3], and of each true point to the generated ones."""
    tree = neighbour_tree(truth) if truth_tree is None else truth_tree
    return tree.query(generated)[0], neighbour_tree(generated).query(truth)[0]


def neighbour_tree(points: Floats) -> cKDTree:
    """A tree over points [N, 3], with the leaf size measured to be fastest for surfaces."""
    return cKDTree(points, leafsize=32)


def chamfer(to_truth: Floats, to_generated: Floats) -> float:
    """Mean squared nearest distance, both directions added. Takes the result of nearest_distances."""
    return float(np.mean(to_truth**2) + np.mean(to_generated**2))


def f_score(to_truth: Floats, to_generated: Floats, tau: float = TAU) -> float:
    """Harmonic mean of precision and recall at distance tau, in percent. Takes the result of nearest_distances."""
    precision, recall = np.mean(to_truth < tau), np.mean(to_generated < tau)
    return float(200 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def box_iou(first: Floats, second: Floats) -> float:
    """Volume IoU of the axis-aligned boxes of two clouds [N, 3], [M, 3]; boxes without volume share nothing."""
    low, high = np.maximum(first.min(0), second.min(0)), np.minimum(first.max(0), second.max(0))
    common = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(np.ptp(first, axis=0)) + np.prod(np.ptp(second, axis=0))) - common
    return common / union if union > 0 else 0.0


def voxel_iou(first: Grid, second: Grid) -> float:
    """IoU of two bool grids of one shape; two empty grids agree."""
    if first.shape != second.shape:
        raise InvalidInput(f"voxel grids are {list(first.shape)} and {list(second.shape)}: compare one resolution")
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def normalise_object(points: Floats) -> Floats:
    """Points [N, 3] with every axis stretched by itself onto [-0.95, 0.95]; an axis without extent becomes 0."""
    low, extent = points.min(0), np.ptp(points, axis=0)
    centred = points - (low + extent / 2)
    return centred * np.divide(2 * OBJECT_HALF_SIDE, extent, out=np.zeros(3), where=extent > 0)


def normalise_scene(objects: Sequence[Floats]) -> list[Floats]:
    """Clouds [N, 3] of one scene, moved and scaled together: centred, the longest side spans [-0.98, 0.98]."""
    T = scene_normalisation(objects)
    return [points * T[0, 0] + T[:3, 3] for points in objects]


def scene_normalisation(objects: Sequence[Floats]) -> Floats:
    """What `normalise_scene` does to clouds [N, 3], as float64 [4, 4]."""
    low = np.min([points.min(0) for points in objects], axis=0)
    high = np.max([points.max(0) for points in objects], axis=0)
    longest = float((high - low).max())
    if not longest > 0:
        raise InvalidInput("the scene is one single point: nothing can be compared with it")
    scale = 2 * SCENE_HALF_SIDE / longest
    T = np.diag([scale, scale, scale, 1.0])
    T[:3, 3] = -scale * (low + high) / 2
    return T
