"""FilterReg: rigid point-to-point registration of two point clouds by EM with a Gaussian filter.

Written from the equations of Gao & Tedrake, "FilterReg: Robust and Efficient Probabilistic Point-Set Registration
using Gaussian Filter and Twist Parameterization", CVPR 2019, as spec/evaluation.md calls it: sigma^2 estimated from
the data at the start and then kept fixed, no outlier class, at most 50 iterations.

Because sigma and the target stay fixed, so do the two filtered fields that the E step reads (the mixture's mass and
its first moment): they are computed once, on a regular grid, and interpolated from then on.

Knows nothing about meshes, scenes or metrics. It is a local method: a start that is turned by far too much stays so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from scenegen.scene import Floats, InvalidInput

MAX_ITERATIONS = 50
CELLS_PER_SIGMA = 4
"""Grid cells per sigma: the motion found is then within 0.001 sigma of the one from exact sums."""
MARGIN_SIGMAS = 2.0
"""Room around both clouds, in sigmas, so that a moving source still finds a field."""
STILL = 1e-4
"""An update that moves no point by more than this share of sigma ends the iterations."""
ICP_ITERATIONS = 12
ICP_POINTS = 1024


@dataclass(frozen=True)
class RigidMotion:
    """target = rotation @ source + translation. rotation: float64 [3, 3]. translation: float64 [3]."""

    rotation: Floats
    translation: Floats

    def apply(self, points: Floats) -> Floats:
        """points [N, 3] -> moved points [N, 3]."""
        return points @ self.rotation.T + self.translation

    @property
    def matrix(self) -> Floats:
        """The same as float64 [4, 4]."""
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = self.rotation, self.translation
        return T

    def after(self, earlier: RigidMotion) -> RigidMotion:
        """The motion that does the earlier one, then this one."""
        return RigidMotion(self.rotation @ earlier.rotation, self.rotation @ earlier.translation + self.translation)


def initial_sigma2(source: Floats, target: Floats) -> float:
    """Mean squared distance over all pairs of source [N, 3] and target [M, 3], per dimension (the usual GMM start)."""
    offset = source.mean(0) - target.mean(0)
    return float((source.var(0).sum() + target.var(0).sum() + offset @ offset) / 3)


def filterreg(
    source: Floats, target: Floats, *, sigma2: float | None = None, max_iterations: int = MAX_ITERATIONS
) -> RigidMotion:
    """The rigid motion, from identity, that takes source [N, 3] onto target [M, 3].

    sigma2: variance of the mixture's components; None estimates it from the data. Raises InvalidInput when a cloud
    has fewer than three points, is not finite, or when both are one single point.
    """
    for name, points in (("source", source), ("target", target)):
        if points.ndim != 2 or points.shape[1] != 3 or len(points) < 3 or not np.isfinite(points).all():
            raise InvalidInput(f"{name} is {list(points.shape)}: at least three finite points [N, 3] are needed")
    sigma = np.sqrt(initial_sigma2(source, target) if sigma2 is None else sigma2)
    if not sigma > 0:
        raise InvalidInput("all points coincide: a registration needs clouds that have an extent")
    mixture = _FilteredMixture(source, target, float(sigma))
    points, weights = _cell_means(source, float(sigma) / CELLS_PER_SIGMA)
    motion = RigidMotion(np.eye(3), np.zeros(3))
    for _ in range(max_iterations):
        moved = motion.apply(points)
        step = _fit_rigid(moved, mixture.expectation(moved), weights)
        motion = step.after(motion)
        farthest = np.abs(step.apply(moved) - moved).max()
        if farthest < STILL * sigma:
            break
    return motion


def closest_point_refinement(source: Floats, target: Floats, target_tree: cKDTree) -> RigidMotion:
    """Plain ICP from identity on an even subset of source [N, 3]: removes what a wide, fixed sigma leaves.

    target_tree: over target [M, 3]. Not part of the paper's protocol; its figures carry the ending ``_icp``.
    """
    points = source[:: max(1, len(source) // ICP_POINTS)]
    weights = np.ones(len(points), dtype=np.int64)
    motion = RigidMotion(np.eye(3), np.zeros(3))
    for _ in range(ICP_ITERATIONS):
        moved = motion.apply(points)
        step = _fit_rigid(moved, target[target_tree.query(moved)[1]], weights)
        motion = step.after(motion)
    return motion


class _FilteredMixture:
    """The target as a Gaussian mixture: its mass M0 and first moment M1 filtered onto a grid (equations 10 and 11)."""

    def __init__(self, source: Floats, target: Floats, sigma: float) -> None:
        cell = sigma / CELLS_PER_SIGMA
        both = np.vstack([source, target])
        self.low = both.min(0) - MARGIN_SIGMAS * sigma
        self.cell = cell
        shape = tuple(int(n) for n in np.ceil((both.max(0) + MARGIN_SIGMAS * sigma - self.low) / cell) + 1)
        # Trilinear splatting and reading each widen the kernel by cell^2 / 6.
        blur = np.sqrt(CELLS_PER_SIGMA**2 - 1 / 3)
        means, counts = _cell_means(target, cell / 2)
        channels = np.vstack([counts, counts * means.T])
        self.fields = [
            gaussian_filter(grid, blur, mode="constant", truncate=5.0)
            for grid in _splat((means - self.low) / cell, channels, shape)
        ]

    def expectation(self, points: Floats) -> Floats:
        """E step: the expected target M1 / M0 of each point [N, 3]; without an outlier class every weight is one."""
        at = ((points - self.low) / self.cell).T
        mass, *moment = (map_coordinates(field, at, order=1, mode="nearest") for field in self.fields)
        return np.column_stack(moment) / np.maximum(mass, np.finfo(float).tiny)[:, None]


def _splat(coordinates: Floats, channels: Floats, shape: tuple[int, ...]) -> Floats:
    """Trilinear sums of channels [C, N] at grid coordinates [N, 3]: float64 [C, *shape]."""
    base = np.floor(coordinates).astype(np.int64)
    upper = coordinates - base
    shares = 1 - upper, upper
    total = np.zeros((len(channels), int(np.prod(shape))))
    for i, j, k in np.ndindex(2, 2, 2):
        weight = shares[i][:, 0] * shares[j][:, 1] * shares[k][:, 2]
        index = np.ravel_multi_index(tuple((base + (i, j, k)).T), shape)
        total += [np.bincount(index, weights=weight * values, minlength=total.shape[1]) for values in channels]
    return total.reshape(-1, *shape)


def _cell_means(points: Floats, cell: float) -> tuple[Floats, NDArray[np.int64]]:
    """Points [N, 3] merged per cubic cell: means [K, 3] and counts [K]. The E step is smooth on this length."""
    index = np.floor((points - points.min(0)) / cell).astype(np.int64)
    _, inverse, counts = np.unique(
        np.ravel_multi_index(tuple(index.T), tuple(index.max(0) + 1)), return_inverse=True, return_counts=True
    )
    sums = np.column_stack([np.bincount(inverse, weights=axis) for axis in points.T])
    return sums / counts[:, None], counts


def _fit_rigid(source: Floats, target: Floats, weights: NDArray[np.int64]) -> RigidMotion:
    """M step: the motion that minimises the weighted squared distances of pairs [K, 3], in closed form (Kabsch)."""
    share = weights / weights.sum()
    source_mean, target_mean = share @ source, share @ target
    covariance = (source - source_mean).T @ ((target - target_mean) * share[:, None])
    u, _, vt = np.linalg.svd(covariance)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ flip @ u.T
    return RigidMotion(rotation, target_mean - rotation @ source_mean)
