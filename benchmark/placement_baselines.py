"""What place_scene is compared with: every object's measured points registered with its mesh, alone, with scale.

What a competent user of a registration library would do without the rest of placement: the points of each mask, cleaned
as place_scene cleans them, from all views in one frame; the mesh started upright (up is given) at eight yaws, the boxes
around both laid on one another, which gives the first scale; the best start finished. They know nothing about what a
camera would see of the mesh, free space, the support, or where the other objects are. Poses are float64 [4, 4]
similarities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from scenegen.placement.evidence import common_views, gather
from scenegen.scene import Floats, View

YAWS = 8
LEAST_POINTS = 10  # with fewer there is nothing to register, and the start stays
ICP_SAMPLES, ICP_POINTS, ICP_KEPT = 2000, 300, 0.9
CPD_SAMPLES, CPD_POINTS, CPD_OUTLIERS = 200, 200, 0.1
FIRST, LAST = 20, 40  # iterations of every start, and of the best


def measured(views: Sequence[View], instance: int) -> Floats:
    """Readings [n, 3] of one object in the world."""
    found = gather(common_views(views), instance)
    return np.zeros((0, 3)) if found is None else found.points


def scaled_icp(model: Floats, points: Floats, random: np.random.Generator) -> Floats:
    """Trimmed ICP with scale (Zinsser, Schmidt & Niemann 2005), every measured point to its nearest of the model."""
    source, target = _some(model, ICP_SAMPLES, random), _some(points, ICP_POINTS, random)
    tree = cKDTree(source)

    def run(T: Floats, iterations: int) -> tuple[Floats, float]:
        distance = np.full(len(target), np.inf)
        for _ in range(iterations):
            scale = np.linalg.norm(T[:3, 0])
            distance, nearest = tree.query((target - T[:3, 3]) @ T[:3, :3] / scale**2)
            distance = distance * scale
            near = distance <= np.quantile(distance, ICP_KEPT)
            T = _similarity(source[nearest[near]], target[near], np.ones(int(near.sum())))
        return T, float(np.sort(distance)[: int(ICP_KEPT * len(distance))].mean())

    return _best_of_yaws(source, target, run)


def cpd(model: Floats, points: Floats, random: np.random.Generator) -> Floats:
    """Coherent point drift with a similarity (Myronenko & Song 2010, figure 2), outlier weight 0.1."""
    source, target = _some(model, CPD_SAMPLES, random), _some(points, CPD_POINTS, random)

    def run(T: Floats, iterations: int) -> tuple[Floats, float]:
        squared = cdist(_moved(T, source), target, "sqeuclidean")
        variance = float(squared.min(axis=0).mean())  # the start is rough, not unknown
        m, n = squared.shape
        for _ in range(iterations):
            kernel = np.exp(squared * (-0.5 / variance))
            uniform = (2 * np.pi * variance) ** 1.5 * CPD_OUTLIERS / (1 - CPD_OUTLIERS) * m / n
            belongs = kernel / (kernel.sum(axis=0) + uniform + 1e-300)
            mass = belongs.sum(axis=1)
            if mass.sum() < 1e-6:
                break
            T = _similarity(source, belongs @ target / np.maximum(mass, 1e-12)[:, None], mass)
            squared = cdist(_moved(T, source), target, "sqeuclidean")
            variance = max(float((belongs * squared).sum() / (3 * mass.sum())), 1e-10)
        return T, variance

    return _best_of_yaws(source, target, run)


def _best_of_yaws(source: Floats, target: Floats, run: Callable[[Floats, int], tuple[Floats, float]]) -> Floats:
    if len(target) < LEAST_POINTS:
        return np.eye(4)
    yaws = Rotation.from_rotvec(np.arange(YAWS)[:, None] * (2 * np.pi / YAWS) * [0.0, 0.0, 1.0]).as_matrix()
    T = min((run(_start(R, source, target), FIRST) for R in yaws), key=lambda found: found[1])[0]
    return run(T, LAST)[0]


def _start(R: Floats, source: Floats, target: Floats) -> Floats:
    """The box around the turned source laid on that around the target."""
    turned = source @ R.T
    T = np.eye(4)
    scale = np.linalg.norm(np.ptp(target, axis=0)) / np.linalg.norm(np.ptp(turned, axis=0))
    T[:3, :3] = scale * R
    T[:3, 3] = (target.min(axis=0) + target.max(axis=0)) / 2 - scale * (turned.min(axis=0) + turned.max(axis=0)) / 2
    return T


def _some(points: Floats, count: int, random: np.random.Generator) -> Floats:
    return points[random.permutation(len(points))[:count]]


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
