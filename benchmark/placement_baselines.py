"""What place_scene is compared with: registrations of the whole generated scene as one cloud, with scale.

Both start from the cameras' world axes with centroids and spreads laid on one another, and know nothing about masks
beyond which points belong to any object. Poses are float64 [4, 4] similarities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from scenegen.scene import Floats, Scene, View

ICP_POINTS, ICP_ITERATIONS, ICP_KEPT = 1500, 50, 0.9
LEAST_POINTS = 10  # with fewer there is nothing to register, and the start stays
CPD_POINTS, CPD_ITERATIONS, CPD_OUTLIERS = 300, 60, 0.1


def merged_model(scene: Scene) -> Floats:
    """Samples [n, 3] of all assets as they are placed, in the query asset's frame; larger ones get more."""
    clouds = []
    for i, asset in enumerate(scene.assets):
        T = scene.T_query_asset(i)
        drawn = trimesh.sample.sample_surface(asset.mesh, ICP_POINTS, seed=0)[0] @ T[:3, :3].T + T[:3, 3]
        clouds.append(drawn[: max(50, int(ICP_POINTS * min(1, scene.placements[i].scale ** 2)))])
    return np.concatenate(clouds)


def merged_points(views: Sequence[View], ids: Sequence[int]) -> Floats:
    """Readings [n, 3] of all masked pixels, in the world."""
    clouds = []
    for view in views:
        assert view.depth_m is not None and view.intrinsics is not None and view.T_world_camera is not None
        v, u = np.nonzero(np.isin(view.masks, ids) & (view.depth_m > 0))
        camera = np.linalg.solve(view.intrinsics, np.stack([u, v, np.ones(len(u))])) * view.depth_m[v, u]
        clouds.append(camera.T @ view.T_world_camera[:3, :3].T + view.T_world_camera[:3, 3])
    return np.concatenate(clouds)


def scaled_icp(model: Floats, points: Floats, random: np.random.Generator) -> Floats:
    """Trimmed ICP with scale (Zinsser, Schmidt & Niemann 2005), every measured point to its nearest of the model."""
    if len(points) < LEAST_POINTS:
        return np.eye(4)
    source, target = _some(model, ICP_POINTS, random), _some(points, ICP_POINTS, random)
    T = _start(source, target)
    for _ in range(ICP_ITERATIONS):
        distance, nearest = cKDTree(_moved(T, source)).query(target)
        near = distance <= np.quantile(distance, ICP_KEPT)
        T = _similarity(source[nearest[near]], target[near], np.ones(int(near.sum())))
    return T


def cpd(model: Floats, points: Floats, random: np.random.Generator) -> Floats:
    """Coherent point drift with a similarity (Myronenko & Song 2010, figure 2), outlier weight 0.1."""
    if len(points) < LEAST_POINTS:
        return np.eye(4)
    source, target = _some(model, CPD_POINTS, random), _some(points, CPD_POINTS, random)
    T = _start(source, target)
    squared = ((_moved(T, source)[:, None] - target) ** 2).sum(-1)
    variance = float(squared.mean()) / 3
    m, n = squared.shape
    for _ in range(CPD_ITERATIONS):
        kernel = np.exp(-squared / (2 * variance))
        uniform = (2 * np.pi * variance) ** 1.5 * CPD_OUTLIERS / (1 - CPD_OUTLIERS) * m / n
        belongs = kernel / (kernel.sum(axis=0) + uniform + 1e-300)
        mass = belongs.sum(axis=1)
        if mass.sum() < 1e-6:
            break
        T = _similarity(source, belongs @ target / np.maximum(mass, 1e-12)[:, None], mass)
        squared = ((_moved(T, source)[:, None] - target) ** 2).sum(-1)
        variance = max(float((belongs * squared).sum() / (3 * mass.sum())), 1e-10)
    return T


def _some(points: Floats, count: int, random: np.random.Generator) -> Floats:
    return points[random.permutation(len(points))[:count]]


def _start(source: Floats, target: Floats) -> Floats:
    T = np.eye(4)
    T[:3, :3] *= np.sqrt(target.var(axis=0).sum() / source.var(axis=0).sum())
    T[:3, 3] = target.mean(axis=0) - T[:3, :3] @ source.mean(axis=0)
    return T


def _moved(T: Floats, points: Floats) -> Floats:
    return points @ T[:3, :3].T + T[:3, 3]


def _similarity(source: Floats, target: Floats, weight: Floats) -> Floats:
    """The least-squares similarity of weighted pairs (Umeyama 1991)."""
    share = weight / weight.sum()
    mean_s, mean_t = share @ source, share @ target
    s, t = source - mean_s, target - mean_t
    u, d, vt = np.linalg.svd((t * share[:, None]).T @ s)
    sign = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    T = np.eye(4)
    T[:3, :3] = (u * sign) @ vt * max((d * sign).sum() / max(float(share @ (s**2).sum(axis=1)), 1e-12), 1e-6)
    T[:3, 3] = mean_t - T[:3, :3] @ mean_s
    return T
